"""Typed reading of a JSON file: every error is one line that names the file and the field."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FolderError, is_plain, one_line
from .inside import MIB, read_inside

MOST_BYTES = 16 * MIB
"""Of a JSON file; those of models of 200 layers have 2 MiB."""
_MOST_LEVELS = 64
LARGEST = sys.float_info.max
"""The largest number that a field may have."""
_WAY_OUT = "export the folder again with `losparse export`"


def read_json(file: Path) -> Fields:
    """Read a file that holds one JSON object.

    Args:
        file: in a folder; it may be a link as `inside` allows it.

    Raises:
        FolderError: the file cannot be read or leads out of its folder, is not JSON (NaN and Infinity are not), or
            holds something else.
    """
    return parse_json(file, read_inside(file.parent, file.name, MOST_BYTES))


def parse_json(file: Path, content: bytes) -> Fields:
    """Read the bytes of a file that holds one JSON object.

    Args:
        file: they came from, for messages.
        content: all of them.

    Raises:
        FolderError: they are not JSON, name a key twice, are nested deeper than anybody writes, or hold something else.
    """
    try:
        data = json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
        _check_depth(data)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{file}: not valid JSON ({one_line(error)}); {_WAY_OUT}") from error
    if not isinstance(data, dict):
        raise FolderError(f"{file}: must hold a JSON object, got a {type(data).__name__}; {_WAY_OUT}")
    return Fields(file, data)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    """Read a number; JSON has no Infinity, but 1e999 would read as one."""
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; of a key that is there twice, readers take the one or the other."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return made


def _check_depth(data: object) -> None:
    """Refuse what functions that call themselves could not go through."""
    level = [data]
    for _ in range(_MOST_LEVELS):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(f"nested more than {_MOST_LEVELS} levels deep")


class Fields:
    """One JSON object of a file, whose fields are taken out by name and type.

    Args:
        file: the file it came from, for messages.
        data: the object.
        at: where in the file it is, for messages: "" or a path that ends in a dot, as in "inputs[0].".
    """

    def __init__(self, file: Path, data: dict[str, Any], at: str = "") -> None:
        self.file = file
        self.data = data
        self.at = at

    def fail(self, name: str, expected: str) -> NoReturn:
        """Refuse a field: say what it must be and what it is.

        Raises:
            FolderError: always.
        """
        if name not in self.data:
            raise FolderError(f"{self.file}: field '{self.at}{name}' is missing; {_WAY_OUT}")
        value = one_line(ValueError(repr(self.data[name])[:80]))
        raise FolderError(f"{self.file}: field '{self.at}{name}' must be {expected}, got {value}; {_WAY_OUT}")

    def text(self, name: str) -> str:
        """A string that is not empty, and that a line of a log can hold."""
        value = self.data.get(name)
        if not isinstance(value, str) or not value:
            self.fail(name, "a string that is not empty")
        if not is_plain(value):
            self.fail(name, "a string without characters that cannot be seen")
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """One of the allowed strings."""
        value = self.data.get(name)
        if not isinstance(value, str) or value not in allowed:
            self.fail(name, f"one of {', '.join(allowed)}")
        return value

    def digest(self, name: str) -> str:
        """A SHA-256 as 64 lower-case hexadecimal digits."""
        value = self.data.get(name)
        if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            self.fail(name, "a SHA-256 of 64 lower-case hexadecimal digits")
        return value

    def integer(self, name: str, minimum: int) -> int:
        """A whole number, at least `minimum`."""
        value = self.data.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            self.fail(name, f"a whole number >= {minimum}")
        return value

    def number(self, name: str, minimum: float = 0.0) -> float:
        """A finite number, at least `minimum`."""
        value = self.data.get(name)
        # 400 digits read as an int that no float holds.
        if not isinstance(value, int | float) or isinstance(value, bool) or not minimum <= value <= LARGEST:
            self.fail(name, f"a finite number >= {minimum:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.data.get(name)
        if not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings, none twice."""
        value = self.data.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(name, "a list of strings")
        if len(set(value)) != len(value):
            self.fail(name, "a list of strings, none of them twice")
        return tuple(value)

    def object(self, name: str) -> Fields:
        """An object inside this one."""
        value = self.data.get(name)
        if not isinstance(value, dict):
            self.fail(name, "an object")
        return Fields(self.file, value, f"{self.at}{name}.")

    def entries(self, name: str) -> Iterator[tuple[str, Fields]]:
        """The objects inside an object, by name; at least one."""
        inner = self.object(name)
        if not inner.data:
            self.fail(name, "an object of at least one entry")
        for entry in inner.data:
            if not is_plain(entry):
                self.fail(name, "an object whose names have no characters that cannot be seen")
        return ((entry, inner.object(entry)) for entry in inner.data)

    def objects(self, name: str) -> Iterator[Fields]:
        """The objects of a list."""
        value = self.data.get(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fail(name, "a list of objects")
        return (Fields(self.file, item, f"{self.at}{name}[{index}].") for index, item in enumerate(value))

    def is_null(self, name: str) -> bool:
        """True where the field is there and null."""
        return name in self.data and self.data[name] is None
