"""`checked`: frozen dataclasses whose values are checked whoever makes them, in Python or from a file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from ..errors import shown
from .fields import attribute_docs, field_types
from .messages import WrongValueError, translate
from .words import TABLE

if TYPE_CHECKING:  # pydantic takes 0.1 s: it is loaded with the first value, not with the classes
    from pydantic import TypeAdapter

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(kind: type[T]) -> type[T]:
    """Make a frozen dataclass of a class; values that its fields do not take are refused with `WrongValueError`.

    Values are converted as in files: a whole number with a fraction of nothing, or a list where a tuple is declared.
    `__post_init__` sees them converted, and checks what several fields say together. A subclass that is a plain
    dataclass has the fields of the checked one checked, and its own not.
    """
    made: Any = dataclasses.dataclass(frozen=True)(kind)
    fill, look = made.__init__, getattr(made, "__post_init__", None)

    @functools.wraps(fill)
    def init(self: Any, *args: Any, **values: Any) -> None:
        from pydantic import ValidationError
        from pydantic_core import ArgsKwargs

        try:
            _adapter(made).validator.validate_python(ArgsKwargs(args, values), self_instance=self)
        except ValidationError as error:
            raise translate(error, made) from None

    def post_init(self: Any) -> None:
        if type(self).__init__ not in _CHECKING:  # a plain dataclass over this one, whose own __init__ fills the fields
            read_as(made, {name: getattr(self, name) for name in field_types(made)})
        if look is not None:
            look(self)

    _CHECKING.add(init)
    for name, value in {"__init__": init, "__post_init__": post_init, "__pydantic_config__": _CONFIG}.items():
        setattr(made, name, value)
    result: type[T] = made
    return result


_CHECKING: set[Any] = set()
"""The `__init__` methods that check."""


def read_as(kind: type[T], data: Any, source: str = "", *, name: str = "") -> T:
    """Make a checked dataclass of plain data, as JSON and YAML files have it.

    Args:
        kind: checked dataclass.
        data: table of its keys and values; keys that are missing take their defaults.
        source: what was read, such as the name of a file, for the message.
        name: what the table is, for the message where it is none; default: its source.

    Raises:
        WrongValueError: an unknown or missing key, or a value that a field does not take; at the first of them.
    """
    from pydantic import ValidationError

    if not isinstance(data, Mapping):
        said = f"must be {TABLE}, got {shown(data)}"
        raise WrongValueError(name or source or kind.__name__, said, source=source if name else "")
    try:
        made: T = _adapter(kind).validate_python(dict(data))
    except ValidationError as error:
        raise translate(error, kind, source) from None
    return made


def json_schema(kind: type | UnionType) -> dict[str, Any]:
    """Return the JSON schema of a checked dataclass, or of one of several; its descriptions are the docstrings."""
    return _adapter(kind).json_schema()


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        from pydantic import TypeAdapter

        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _describe(schema: dict[str, Any], kind: type) -> None:
    """Put what the docstring says of every field into the JSON schema."""
    docs, properties = attribute_docs(kind), schema.get("properties", {})
    schema["description"] = _summary(kind)
    schema["properties"] = {name: properties[name] for name in field_types(kind)}  # without those of no __init__
    for name, entry in schema["properties"].items():
        entry.pop("title", None)
        if name in docs:
            entry["description"] = docs[name]


def _summary(kind: type) -> str:
    """Return the first line of a class's docstring; dataclasses without one get their signature, which is none."""
    line = (kind.__doc__ or "").partition("\n")[0]
    return "" if line.startswith(f"{kind.__name__}(") else line


_CONFIG = {"extra": "forbid", "json_schema_extra": _describe}
