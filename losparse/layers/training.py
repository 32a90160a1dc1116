"""The form a layer has while a method trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from .factored import FactoredLinear


class TrainingForm(FactoredLinear, ABC):
    """A layer while a method trains it; `compact()` gives the small layer it has become.

    Attributes:
        trainer: name of the form in config.json, by which a Trainer's checkpoint is built again.
        settings: what the constructor takes beside sizes, rank and bias; attributes of the same names, of JSON types.
        sparse: the matrix that is pruned; (out, in).
    """

    trainer: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    sparse: nn.Parameter

    @property
    @abstractmethod
    def kept_groups(self) -> int:
        """Groups of `sparse` that `compact()` would keep now."""

    @abstractmethod
    def compact(self) -> FactoredLinear:
        """Return the small layer.

        Raises:
            LosparseError: training has not come so far that there is one.
        """


def training_layers(model: nn.Module) -> dict[str, TrainingForm]:
    """Return the layers in training form by qualified name, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, TrainingForm)}
