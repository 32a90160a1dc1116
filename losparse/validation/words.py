"""What a type allows, in words: of its marks, so that a range is written once."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .fields import in_words, members, unwrap
from .marks import NotEmpty, Numeric, OneOf

TABLE = "a table of keys and values"


def wanted(hint: Any, *, finite: bool = False) -> str:
    """Say what a type allows, as in "a whole number of 1 or more, or null".

    Args:
        hint: type of a field, with its marks.
        finite: say of numbers that they are finite, where infinity came.
    """
    parts = members(hint, said=True)
    choices = [_one(part, finite) for part in parts if part is not type(None)]
    null = ", or null" if len(parts) > len(choices) else ""
    return ", or ".join(dict.fromkeys(choices)) + null


def _one(hint: Any, finite: bool) -> str:
    """Say what a type allows that is no union, or is one that a mark says in words."""
    base, marks = unwrap(hint)
    said = in_words(marks)
    listed = next((mark.values() for mark in marks if isinstance(mark, OneOf)), None)
    origin, inner = typing.get_origin(base), typing.get_args(base)
    not_empty = " that is not empty" if any(isinstance(mark, NotEmpty) for mark in marks) else ""
    if said is not None:
        return said
    if listed is not None or origin is Literal:
        return f"one of {', '.join(map(str, listed or inner))}"
    if base in (int, float):
        noun = "a whole number" if base is int else "a finite number" if finite else "a number"
        return noun + in_range(hint)
    if base in (bool, str):
        return "true or false" if base is bool else f"a text{not_empty}"
    if origin in (tuple, list, Sequence):
        return f"a list{not_empty}"
    return TABLE + not_empty if origin in (dict, Mapping) or dataclasses.is_dataclass(base) else str(base)


def in_range(hint: Any) -> str:
    """Say the range of a number, or of one or None, with a space in front; empty where there is none."""
    marks = (mark for member in members(hint) for mark in unwrap(member)[1])
    mark = next((mark for mark in marks if isinstance(mark, Numeric)), None)
    low = None if mark is None else mark.least if mark.above is None else mark.above
    high = None if mark is None else mark.most if mark.below is None else mark.below
    if mark is None or (low is None and high is None):
        return ""
    if high is None:
        return f" above {low:g}" if mark.above is not None else f" of {low:g} or more"
    if low is None:
        return f" below {high:g}" if mark.below is not None else f" of {high:g} or less"
    return f" in {'[' if mark.above is None else '('}{low:g}, {high:g}{']' if mark.below is None else ')'}"
