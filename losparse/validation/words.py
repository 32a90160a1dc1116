"""What a type allows, in words: of its marks, so that a range is written once."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .fields import in_words, members, unwrap
from .marks import LARGEST, NotEmpty, Numeric, OneOf

TABLE = "a table of keys and values"


def wanted(hint: Any, *, finite: bool = False, largest: bool = False) -> str:
    """Say what a type allows, as in "a whole number of 1 or more, or null".

    Args:
        hint: type of a field, with its marks.
        finite: say of numbers that they are finite, where infinity came.
        largest: say of whole numbers how large any may be, where a larger one came.
    """
    parts = members(hint, said=True)
    choices = [_one(part, finite, largest) for part in parts if part is not type(None)]
    null = ", or null" if len(parts) > len(choices) else ""
    return ", or ".join(dict.fromkeys(choices)) + null


def _one(hint: Any, finite: bool, largest: bool) -> str:
    """Say what a type allows that is no union, or is one that a mark says in words."""
    base, marks = unwrap(hint)
    said = in_words(marks)
    texts = listed(hint)
    origin, inner = typing.get_origin(base), typing.get_args(base)
    not_empty = " that is not empty" if any(isinstance(mark, NotEmpty) for mark in marks) else ""
    if said is not None:
        return said
    if texts or origin is Literal:
        return f"one of {', '.join(texts or map(str, inner))}"
    if base in (int, float):
        noun = "a whole number" if base is int else "a finite number" if finite else "a number"
        return noun + in_range(hint) + (f", at most {LARGEST}" if base is int and largest else "")
    if base in (bool, str):
        return "true or false" if base is bool else f"a text{not_empty}"
    if origin in (tuple, list, Sequence):
        return f"a list{not_empty}"
    return TABLE + not_empty if origin in (dict, Mapping) or dataclasses.is_dataclass(base) else str(base)


def listed(hint: Any) -> list[str]:
    """Return the texts that a type lists, of all members of a union; none where it lists none."""
    found: list[str] = []
    for base, marks in map(unwrap, members(hint)):
        chosen = next((mark.values() for mark in marks if isinstance(mark, OneOf)), None)
        literal = typing.get_args(base) if typing.get_origin(base) is Literal else ()
        found += [text for text in (chosen if chosen is not None else literal) if isinstance(text, str)]
    return found


def did_you_mean(given: object, allowed: Sequence[str]) -> str:
    """Return a question for the allowed text that is nearest to a wrong one, with a semicolon in front, or nothing."""
    found = difflib.get_close_matches(given, allowed, n=1) if isinstance(given, str) else []
    return f"; did you mean {found[0]!r}?" if found else ""


def in_range(hint: Any) -> str:
    """Say the range of a number, or of one or None, with a space in front; empty where there is none."""
    marks = (mark for member in members(hint) for mark in unwrap(member)[1])
    mark = next((mark for mark in marks if isinstance(mark, Numeric)), None)
    if mark is None:
        return ""
    low = mark.least if mark.above is None else mark.above
    high = mark.most if mark.below is None else mark.below
    if low is None:
        if high is None:
            return ""
        return f" below {_limit(high)}" if mark.below is not None else f" of {_limit(high)} or less"
    if high is None:
        return f" above {_limit(low)}" if mark.above is not None else f" of {_limit(low)} or more"
    return f" in {'[' if mark.above is None else '('}{_limit(low)}, {_limit(high)}{']' if mark.below is None else ')'}"


def _limit(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
