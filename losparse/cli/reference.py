"""PyTorch as the reference of a check."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from losparse_export.load import load_model
from losparse_export.locate import first_difference
from losparse_export.tasks import TaskModel

from ..errors import LosparseError
from .check import Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from losparse_runtime import Session


def open_torch(session: Session, folder: Path) -> Reference:
    """Open a checkpoint as the model that a session came from.

    Raises:
        LosparseError: the folder cannot be opened, or its labels are others.
    """
    loaded = load_model(folder, session.task)
    model = TaskModel(loaded.model, loaded.task)
    if session.labels is not None:
        labels = tuple(loaded.model.config.id2label[number] for number in range(loaded.model.config.num_labels))
        if labels != session.labels:
            raise LosparseError(
                f"'{session.folder}' has the labels {', '.join(session.labels)}, its reference '{folder}' has "
                f"{', '.join(labels)}; it was exported from another model"
            )

    def run(batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = model.reference({name: torch.from_numpy(array) for name, array in batch.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def explain(batch: dict[str, NDArray[Any]], tolerance: float) -> str | None:
        # In a copy: the search writes a graph with more outputs beside the model.
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(session.folder, copy, dirs_exist_ok=True)
            found = first_difference(model, Path(copy), batch, tolerance)
        return None if found is None else found.layer

    return Reference("PyTorch", run, explain)
