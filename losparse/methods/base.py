"""What every method says of itself, and what one that trains must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor
    from transformers import TrainerCallback

    from ..layers.factored import FactoredLinear


@dataclass(frozen=True)
class Description:
    """A method in words, for whoever has to pick one.

    Attributes:
        summary: what it does.
        needs: what it takes of the user: "labels", "texts", "gradients", "training", in any combination.
        cost: the time it takes, in words.
        reference: where it comes from.
    """

    summary: str
    needs: tuple[str, ...]
    cost: str
    reference: str


class TrainedMethod(Protocol):
    """A method that works during training: a frozen dataclass that turns a dense weight into a layer to train."""

    trains: ClassVar[bool]
    description: ClassVar[Description]

    @property
    def keep(self) -> float:
        """Kept share of the parameters of the compressed layers; (0, 1]."""

    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> FactoredLinear:
        """Return the layer that replaces the dense one; weight (out, in), bias (out,) or None."""

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return what a Trainer needs to train the method's layers."""


@runtime_checkable
class NamesLayers(Protocol):
    """A method whose settings name layers, so that they can be wrong for a model."""

    def check_layers(self, names: Collection[str]) -> None:
        """Refuse settings that name what is not among these layers.

        Raises:
            LosparseError: see above.
        """
