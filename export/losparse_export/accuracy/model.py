"""One model that answers labelled texts: a session, or PyTorch on the tokens of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from losparse_runtime import Session

from ..opening.task_model import TaskModel

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""From the inputs of one run to its outputs, by name."""


@dataclass(frozen=True)
class Measured:
    """A model to measure.

    Attributes:
        session: whose tokenizer reads the texts.
        run: runs the model once.
        told: whether a model before it read the same texts, and told how many were cut.
    """

    session: Session
    run: Run
    told: bool = False


def of_session(session: Session, *, told: bool = False) -> Measured:
    """Return a session as a model to measure; see `Measured`."""
    return Measured(session, session.run, told)


def of_pytorch(model: TaskModel, session: Session) -> Measured:
    """Return a PyTorch model to measure, on the tokens that the folder exported from it makes of texts."""

    def run(feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = model.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return Measured(session, run)
