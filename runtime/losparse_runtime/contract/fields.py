"""Typed reading of a JSON file: every error is one line that names the file and the field."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FolderError, one_line

_LARGEST = sys.float_info.max
_WAY_OUT = "export the folder again with `losparse export`"


def read_json(file: Path) -> Fields:
    """Read a file that holds one JSON object.

    Raises:
        FolderError: the file cannot be read, is not JSON (NaN and Infinity are not), or holds something else.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise FolderError(f"{file}: cannot be read ({error.strerror or one_line(error)})") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{file}: not valid JSON ({one_line(error)}); {_WAY_OUT}") from error
    if not isinstance(data, dict):
        raise FolderError(f"{file}: must hold a JSON object, got a {type(data).__name__}; {_WAY_OUT}")
    return Fields(file, data)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


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
        """A string that is not empty."""
        value = self.data.get(name)
        if not isinstance(value, str) or not value:
            self.fail(name, "a string that is not empty")
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
        # JSON has no Infinity, but 1e999 reads as one, and 400 digits read as an int that no float holds.
        if not isinstance(value, int | float) or isinstance(value, bool) or not minimum <= value <= _LARGEST:
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
