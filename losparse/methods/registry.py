"""The methods, by name. A new method is one file, or one folder, here and one line in `METHODS`.

One that trains layers of a form of its own has a line in `forms` too. Neither this module nor the classes load torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from ..errors import LosparseError
from ..validation import ByName
from .base import TrainedMethod
from .losparse.method import LoSparse
from .losparse.pruning import StructuredPruning
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

NO_METHOD = "none"
"""Name that a recipe gives to no method: no layer is compressed."""


def is_method(value: Any) -> bool:
    """Tell whether a value is a method, of `METHODS` or of a user's own; a class is none."""
    works = isinstance(value, OneShot) or callable(getattr(value, "start", None))
    return works and not isinstance(value, type)


METHOD = ByName(METHODS, NO_METHOD, is_method, "SVD(keep=0.3)")
"""Mark of a field that holds a method."""


def method_to_dict(method: Method) -> dict[str, Any]:
    """Return a method as plain data, with its name: as in `METHODS`, or of a class that is not there, its own.

    Raises:
        LosparseError: it is no method, but its class say, or one of its values is not of JSON.
    """
    kind = type(method)
    if not is_dataclass(method) or not is_method(method):
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


def method_from_dict(data: Mapping[str, Any]) -> Method | None:
    """Build a method from plain data, with its name; None of that which says `none`.

    Raises:
        LosparseError: unknown method or key, or a value out of range or of another type.
    """
    found: Method | None = METHOD.read(data)
    return found
