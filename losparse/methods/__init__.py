"""The methods, by name. A new method is one file here and one line in `METHODS`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from ..errors import LosparseError
from ..layers.factored import FactoredLinear
from ..training.typed import typed_values
from .base import About
from .losparse.method import LoSparse
from .losparse.pruning import StructuredPruning
from .lpaf.method import LPAF
from .one_shot.asvd import ASVD
from .one_shot.base import OneShot
from .one_shot.fwsvd import FWSVD
from .one_shot.losparse import OneShotLoSparse
from .one_shot.rom import ROM
from .one_shot.svd import SVD

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = [
    "ASVD",
    "FWSVD",
    "LPAF",
    "METHODS",
    "ROM",
    "SVD",
    "LoSparse",
    "Method",
    "OneShot",
    "OneShotLoSparse",
    "StructuredPruning",
    "TrainedMethod",
    "method_from_dict",
    "method_to_dict",
]


class TrainedMethod(Protocol):
    """A method that works during training: a frozen dataclass that turns a dense weight into a layer to train."""

    trains: ClassVar[bool]
    about: ClassVar[About]

    @property
    def keep(self) -> float:
        """Kept share of the parameters of the compressed layers; (0, 1]."""

    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> FactoredLinear:
        """Return the layer that replaces the dense one; weight (out, in), bias (out,) or None."""

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return what a Trainer needs to train the method's layers."""


Method = OneShot | TrainedMethod

METHODS: dict[str, type[Any]] = {
    "losparse": LoSparse,
    "lpaf": LPAF,
    "pruning": StructuredPruning,
    "svd": SVD,
    "fwsvd": FWSVD,
    "asvd": ASVD,
    "rom": ROM,
    "losparse-one-shot": OneShotLoSparse,
}


def method_to_dict(method: Method) -> dict[str, Any]:
    """Return a method as plain data, with its name: as in `METHODS`, or of a class that is not there, its own.

    Raises:
        LosparseError: it is no method, but its class say, or one of its values is not of JSON.
    """
    kind = type(method)
    if not is_dataclass(method) or not (isinstance(method, OneShot) or callable(getattr(method, "start", None))):
        raise LosparseError(f"method must be a value such as SVD(keep=0.3), got {method!r}")
    name = next((name for name, known in METHODS.items() if known is kind), f"{kind.__module__}.{kind.__qualname__}")
    settable = {field.name for field in fields(method) if field.init}
    data = {"name": name, **{key: value for key, value in asdict(method).items() if key in settable}}
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LosparseError(
            f"method {name!r} must hold values of JSON types, for config.json records them: {error}"
        ) from error
    return data


def method_from_dict(data: Mapping[str, Any]) -> Method:
    """Build a method from plain data.

    Raises:
        LosparseError: unknown method or key, or a value out of range or of another type.
    """
    name = data.get("name")
    if not isinstance(name, str) or name not in METHODS:
        raise LosparseError(f"method must be one of {', '.join(sorted(METHODS))}, got {name!r}")
    kind = METHODS[name]
    values = {key: value for key, value in data.items() if key != "name"}
    allowed = [field.name for field in fields(kind) if field.init]
    for key in values:
        if key not in allowed:
            raise LosparseError(f"unknown key {key!r} for method {name!r}; allowed: {', '.join(allowed)}")
    values = typed_values(kind, values)
    try:
        method: Method = kind(**values)
    except TypeError as error:
        raise LosparseError(f"method {name!r} does not accept these values: {error}") from error
    return method
