"""The methods, by name. A new method is one file here and one line in `METHODS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ..errors import LosparseError
from ..layers import FactoredLinear
from .losparse import LoSparse
from .lpaf import LPAF
from .pruning import StructuredPruning
from .svd import SVD

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["LPAF", "METHODS", "SVD", "LoSparse", "Method", "StructuredPruning", "method_from_dict", "method_to_dict"]


class Method(Protocol):
    """What every method is: a frozen dataclass that turns a dense weight into a factored layer."""

    @property
    def keep(self) -> float:
        """Kept share of the parameters of the compressed layers; (0, 1]."""

    @property
    def trains(self) -> bool:
        """Whether the method works during training: its layers start in the training form."""

    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> FactoredLinear:
        """Return the layer that replaces the dense one; weight (out, in), bias (out,) or None."""

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return what a Trainer needs to train the method's layers; nothing for a method that does not train."""


METHODS: dict[str, type[LoSparse | SVD | LPAF]] = {
    "losparse": LoSparse,
    "lpaf": LPAF,
    "svd": SVD,
    "pruning": StructuredPruning,
}


def method_to_dict(method: Method) -> dict[str, Any]:
    """Return a method as plain data, with its name."""
    name = next(name for name, kind in METHODS.items() if kind is type(method))
    settable = {field.name for field in fields(METHODS[name]) if field.init}
    values = {key: value for key, value in asdict(method).items() if key in settable}  # type: ignore[call-overload]
    return {"name": name, **values}


def method_from_dict(data: Mapping[str, Any]) -> Method:
    """Build a method from plain data.

    Raises:
        LosparseError: unknown method or key, or a value out of range.
    """
    name = data.get("name")
    if name not in METHODS:
        raise LosparseError(f"method must be one of {', '.join(sorted(METHODS))}, got {name!r}")
    kind = METHODS[name]
    values = {key: value for key, value in data.items() if key != "name"}
    allowed = [field.name for field in fields(kind) if field.init]
    for key in values:
        if key not in allowed:
            raise LosparseError(f"unknown key {key!r} for method {name!r}; allowed: {', '.join(allowed)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise LosparseError(f"method {name!r} does not accept these values: {error}") from error
