"""The fields of a dataclass: their types with all marks, and what the docstring says of them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Union


def unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without its `Annotated`, and its marks."""
    if typing.get_origin(hint) is not Annotated:
        return hint, []
    base, *marks = typing.get_args(hint)
    inner, more = unwrap(base)
    return inner, [*more, *marks]


def members(hint: Any, *, said: bool = False) -> tuple[Any, ...]:
    """Return the members of a union with their marks, None's type among them; of another type, that alone.

    Args:
        hint: a type.
        said: leave unions whole that a mark says in words.
    """
    base, marks = unwrap(hint)
    if typing.get_origin(base) not in (Union, types.UnionType) or (said and in_words(marks) is not None):
        return (hint,)
    return tuple(inner for member in typing.get_args(base) for inner in members(member, said=said))


def in_words(marks: Iterable[Any]) -> str | None:
    """Return what a mark says that a type must be, or None where none does."""
    return next((mark.wanted for mark in marks if hasattr(mark, "wanted")), None)


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """Return the types of the fields that a caller may give, by name."""
    found = {}
    for field in dataclasses.fields(kind):
        if field.init:
            # Only fields are evaluated: annotations of class variables may name what is imported for checkers alone.
            home = next(base for base in kind.__mro__ if field.name in inspect.get_annotations(base))
            holder = type("_", (), {"__annotations__": {field.name: inspect.get_annotations(home)[field.name]}})
            names = vars(sys.modules[home.__module__])
            found[field.name] = typing.get_type_hints(holder, names, include_extras=True)[field.name]
    return found


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what the `Attributes` sections of a dataclass and its bases say, one line a field."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")  # which Python 3.13 has done already
        section = re.search(r"^Attributes:\n((?: {4}.*\n?|\s*\n)+)", text, re.MULTILINE)
        for entry in re.finditer(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", section[1] if section else "", re.MULTILINE):
            docs[entry[1]] = " ".join(entry[2].split())
    return docs
