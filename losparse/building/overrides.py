"""Keys and values of the command line, put over those of a recipe file: `compress.method.keep=0.3`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LosparseError, shown
from ..validation.documents import parse_yaml
from ..validation.messages import near

_METHOD = "method"


def override(data: Mapping[str, Any], texts: Sequence[str], kind: type) -> dict[str, Any]:
    """Return a recipe's plain data with some values replaced.

    Args:
        data: of the file; it is not changed.
        texts: "path=value" each, later ones win; a value is YAML, as in the file. A method of another name takes none
            of the settings of the one before, and a method without a name is the default one.
        kind: the dataclass that is made of it, whose keys a message can offer.

    Raises:
        LosparseError: a text without "=", a value that is no YAML, or a path into something that has no keys.
    """
    from ..training.recipe import Recipe
    from ..validation.fields import field_types

    found = copy.deepcopy(dict(data))
    for text in texts:
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise LosparseError(f"override {text!r} must be KEY=VALUE, as in compress.method.keep=0.3")
        if keys[0] not in field_types(kind):
            raise LosparseError(f"override {text!r}: unknown key {keys[0]!r}; {near(keys[0], field_types(kind))}")
        table = found
        for depth, key in enumerate(keys[:-1]):
            inner = table.get(key)
            if inner is None and key == _METHOD:
                inner = {"name": Recipe().to_dict()["method"]["name"]}
            if inner is None:
                inner = {}
            if not isinstance(inner, dict):
                at = ".".join(keys[: depth + 1])
                raise LosparseError(f"override {text!r}: {at} is {shown(inner)}, which has no keys")
            table[key] = inner
            table = inner
        _put(table, keys, _value(text, value))
    return found


def _put(table: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    if keys[-1] == _METHOD and isinstance(value, str):
        value = {"name": value}
    if keys[-2:] == [_METHOD, "name"] and table.get("name") != value:
        table.clear()
    table[keys[-1]] = value


def _value(text: str, value: str) -> Any:
    from yaml import YAMLError

    try:
        return parse_yaml(value)
    except (YAMLError, ValueError, RecursionError):  # such as the date 2024-99-99
        raise LosparseError(f"override {text!r}: the value is no YAML; quote it") from None
