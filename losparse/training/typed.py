"""Values from files as the fields of a dataclass want them: of the right type, or refused by name.

YAML's own rules are not what people expect: PyYAML reads `2e-4` as a text, since YAML 1.1 wants a point in it.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping
from typing import Any

from ..errors import LosparseError

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def typed_values(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by field name, each of the type that the dataclass declares for it.

    A number may be written as text ("2e-4"), a whole number with a fraction of nothing (8.0). Fields of other types
    than bool, int, float, str, or one of them or None, are left as they are: the dataclass checks them.

    Args:
        kind: dataclass.
        values: by field name; each is one of its fields.

    Raises:
        LosparseError: a value is of another type, or a number is infinite.
    """
    hints = typing.get_type_hints(kind)
    return {name: typed_value(name, hints[name], value) for name, value in values.items()}


def typed_value(name: str, hint: Any, value: Any) -> Any:
    """Return one value as a field's type has it; see `typed_values`.

    Raises:
        LosparseError: see `typed_values`.
    """
    inner = [part for part in typing.get_args(hint) or (hint,) if part is not type(None)]
    optional = type(None) in typing.get_args(hint)
    wanted = inner[0]
    if len(inner) != 1 or wanted not in _WANTED or (optional and value is None):
        return value
    found = _parsed(value) if wanted in (int, float) else value
    if wanted is int and isinstance(found, float) and found.is_integer():
        found = int(found)
    fits = isinstance(found, int | float if wanted is float else wanted)
    if not fits or (isinstance(found, bool) and wanted is not bool):
        or_null = " or null" if optional else ""
        raise LosparseError(f"{name} must be {_WANTED[wanted]}{or_null}, got {value!r}")
    if wanted is float and _is_infinite(found):  # NaN is left to the field's own range, which it is never in
        raise LosparseError(f"{name} must be a finite number, got {value!r}")
    return found


def _parsed(value: Any) -> Any:
    """Return the number that a text spells, or the value as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return value
    return int(value) if re.fullmatch(r"\s*[-+]?\d{1,18}\s*", value) else float(value)


def _is_infinite(number: float) -> bool:
    try:
        return math.isinf(number)
    except OverflowError:  # an integer beyond the range of a float
        return True
