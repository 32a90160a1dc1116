"""The methods, by name. A new method is one file, or one folder, here and one line in `METHODS`.

One that trains layers of a form of its own has a line in `TRAINING_FORMS` too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from ..errors import LosparseError
from ..layers.training import TrainingForm
from ..training.typed import typed_values
from .base import TrainedMethod
from .losparse.layer import FactoredLinearTraining
from .losparse.method import LoSparse
from .losparse.pruning import StructuredPruning
from .lpaf.layer import MixedRankLinear
from .lpaf.method import LPAF
from .one_shot.asvd import ASVD
from .one_shot.base import OneShot
from .one_shot.fwsvd import FWSVD
from .one_shot.losparse import OneShotLoSparse
from .one_shot.rom import ROM
from .one_shot.svd import SVD

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


TRAINING_FORMS: dict[str, type[TrainingForm]] = {
    kind.trainer: kind for kind in (FactoredLinearTraining, MixedRankLinear)
}
"""Layers as they are while a method trains them, by the name that a checkpoint gives them."""


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
