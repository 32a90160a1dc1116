"""What pydantic found wrong, as losparse says it: one line with the place, what is allowed, what came, the way out."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import LosparseError, shown
from .fields import field_types, members, unwrap
from .marks import NOT_FINITE, TOO_LARGE
from .words import did_you_mean, listed, wanted

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_KEY = "[key]"
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden", "invalid_key")


class WrongValueError(LosparseError):
    """A value that a field does not take.

    Attributes:
        path: of the field, from the outermost value that was read; may be empty.
        said: what is wrong, to be read behind the path; with a colon in front where it is a sentence of its own, and a
            semicolon behind an unknown key.
        unknown: whether there is no such field.
    """

    def __init__(self, path: str, said: str, *, unknown: bool = False, source: str = "") -> None:
        """Put the line together.

        Args:
            path: see the class.
            said: see the class.
            unknown: see the class.
            source: what was read, such as the name of a file; empty for a value that was made in Python.
        """
        self.path, self.said, self.unknown = path, said, unknown
        text = f"unknown key {path!r}{said}" if unknown else f"{path}{said}" if said[0] == ":" else f"{path} {said}"
        text = f"{source}: {text.lstrip(': ')}" if source else text.lstrip(": ")
        super().__init__(" ".join(text.split()))

    def __reduce__(self) -> tuple[type[LosparseError], tuple[str]]:
        """Cross to another process as the plain error of the same line."""
        return LosparseError, (str(self),)


def translate(error: ValidationError, kind: Any, source: str = "") -> WrongValueError:
    """Return the first thing that pydantic found as an error of losparse.

    An unknown key comes before a wrong value: it is often why a value is missing.

    Args:
        error: what pydantic raised.
        kind: dataclass that was to be made.
        source: what was read, such as the name of a file.
    """
    found = error.errors(include_url=False)
    first = next((each for each in found if each["type"] in _UNKNOWN), found[0])
    place = _locate(kind, _places(first))
    cause = first.get("ctx", {}).get("error")
    path, said, unknown = place.path, "", False
    if isinstance(cause, WrongValueError):
        path, said, unknown = _joined(path, cause.path), cause.said, cause.unknown
    elif isinstance(cause, LosparseError):  # of a __post_init__, which begins with a field's name mostly
        said = str(cause)
        name = re.split(r"\W", said, maxsplit=1)[0]
        known = name in field_types(place.owner)
        path, said = (_joined(path, name), said.removeprefix(name).strip()) if known else (path, f": {said}")
    else:
        said, unknown = _said(first, place)
    return WrongValueError(path, said, unknown=unknown, source=source)


def _said(found: ErrorDetails, place: _Place) -> tuple[str, bool]:
    """Return what is wrong, to be read behind the path, and whether there is no such key."""
    kind = found["type"]
    if kind in _UNKNOWN:
        return f"; {near(found['loc'][-1], field_types(place.owner))}", True
    if kind in ("missing", "missing_argument"):
        return f"is missing; it must be {wanted(place.hint)}", False
    if kind in ("unexpected_positional_argument", "multiple_argument_values"):
        return f": {place.owner.__name__} has the fields {', '.join(field_types(place.owner))}, each once", False
    if found["loc"] and found["loc"][-1] == _KEY:
        return f"must have texts as keys, got {shown(found['input'])}", False
    cause = str(found.get("ctx", {}).get("error", ""))
    said = wanted(place.hint, finite=cause == NOT_FINITE, largest=cause == TOO_LARGE)
    return f"must be {said}, got {shown(found['input'])}{did_you_mean(found['input'], listed(place.hint))}", False


def _places(found: ErrorDetails) -> tuple[int | str, ...]:
    """Return pydantic's path without what it adds where a key is wrong."""
    loc = found["loc"]
    if loc and loc[-1] == _KEY:  # behind the wrong key itself
        return loc[:-2]
    return (*loc[:-1], str(loc[-1])) if found["type"] == "invalid_key" else loc  # a number, say, is no place here


def near(name: Any, allowed: Iterable[str]) -> str:
    """Return the allowed name that is nearest to an unknown one, as a question, or all of them."""
    names = list(allowed)
    found = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {found[0]!r}?" if found else f"allowed: {', '.join(names)}"


@dataclass(frozen=True)
class _Place:
    """Where in a value something is.

    Attributes:
        path: as users write it, such as `layers['a.b'].order.side`.
        owner: dataclass that holds it, or that is to be there.
        hint: type of what is to be there.
    """

    path: str
    owner: Any
    hint: Any


def _locate(kind: Any, loc: Sequence[int | str]) -> _Place:
    """Follow pydantic's path through the types of the fields."""
    path, owner, hint = "", kind, kind
    for part in loc:
        choices = [unwrap(member)[0] for member in members(hint)]
        table: Any = next((choice for choice in choices if dataclasses.is_dataclass(choice)), None)
        holder = next((choice for choice in choices if typing.get_origin(choice) in _HOLDERS), None)
        if table is not None:
            keys = list(field_types(table))
            key = keys[part] if isinstance(part, int) and part < len(keys) else str(part)  # of values by position
            owner, path = table, _joined(path, key)
            hint = field_types(table).get(key, Any)
        elif holder is not None and typing.get_origin(holder) in _MAPS:
            path, hint = f"{path}[{part!r}]", typing.get_args(holder)[1]
        elif holder is not None and isinstance(part, int):
            path, hint = f"{path}[{part}]", typing.get_args(holder)[0]
        # else: the label of a member of a union, which is no place in the value
    inside = (unwrap(member)[0] for member in members(hint))
    return _Place(path, next((choice for choice in inside if dataclasses.is_dataclass(choice)), owner), hint)


_MAPS = (dict, Mapping)
_HOLDERS = (*_MAPS, list, tuple, Sequence)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
