"""JSON and YAML files as plain data, with the line in which every key stands, so that messages can point at it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import LosparseError, shown
from .checked import read_as
from .messages import WrongValueError
from .words import TABLE

T = TypeVar("T")

SUFFIXES = (".json", ".yaml", ".yml")
_LARGEST = 100_000
"""Most values in a file, far above what anybody writes."""


@dataclass(frozen=True)
class Document:
    """What a file holds.

    Attributes:
        source: what messages call it.
        data: its table.
        lines: line of every key, from 1, by its path as messages write it ("training.epochs", "targets[0]"); empty
            where nobody could tell.
    """

    source: str
    data: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def where(self, path: str) -> str:
        """Return how a message points at a key: at its line, or at that of the table that should have it."""
        while path:
            if path in self.lines:
                return f"{self.source}, line {self.lines[path]}"
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.source

    def read_as(self, kind: type[T]) -> T:
        """Make a checked dataclass of the file.

        Raises:
            WrongValueError: an unknown key or a wrong value, with the line it is in.
        """
        try:
            return read_as(kind, self.data)
        except WrongValueError as error:
            raise self.placed(error) from None

    def placed(self, error: WrongValueError) -> WrongValueError:
        """Return an error with the place in this file in front of it."""
        return WrongValueError(error.path, error.said, unknown=error.unknown, source=self.where(error.path))


def read_document(path: Path, what: str, keys: tuple[str, ...]) -> Document:
    """Read a file of one table, JSON or YAML by its suffix.

    Args:
        path: of the file.
        what: noun for messages, as in "recipe".
        keys: some keys that it may have, for the message where it is empty.

    Raises:
        LosparseError: the file is missing or malformed, holds no table, or a key twice.
    """
    if not path.is_file():
        raise LosparseError(f"{what} file {str(path)!r} does not exist")
    if path.suffix.lower() not in SUFFIXES:
        allowed = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise LosparseError(f"a {what} must be a {allowed} file, got {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before the text
        data, lines = _parse(text, yaml=path.suffix.lower() != ".json") if text.strip() else (None, {})
    except ModuleNotFoundError:
        raise
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} is not utf-8"
        raise LosparseError(f"{what} file {str(path)!r} cannot be read: {byte}; save the file as utf-8") from error
    except Exception as error:  # the two parsers share no base class but ValueError-likes
        raise LosparseError(f"{what} file {str(path)!r} cannot be read: {_reason(error)}") from error
    if data is None:
        raise LosparseError(f"{what} file {str(path)!r} is empty; it needs at least one of the keys {', '.join(keys)}")
    twice = next((key for key, line in lines.items() if line < 0), None)
    if twice is not None:
        raise LosparseError(
            f"{path}, line {-lines[twice]}: key {twice!r} stands there a second time; leave one of the two out"
        )
    if not isinstance(data, Mapping):
        raise WrongValueError(what, f"must be {TABLE}, got {shown(data)}", source=str(path))
    return Document(str(path), dict(data), lines)


def _parse(text: str, *, yaml: bool) -> tuple[Any, dict[str, int]]:
    if not yaml:
        data = json.loads(text)
        try:
            return data, _lines(text)
        except Exception:  # JSON that is no YAML, as with tabs: no lines then
            return data, {}
    return parse_yaml(text), _lines(text)


def parse_yaml(text: str) -> Any:
    """Return what YAML says, as plain data.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: a date or number that there is none of, or aliases that stand for too much.
        RecursionError: it is too deep.
    """
    from yaml import SafeLoader, compose, safe_load

    node = compose(text, SafeLoader)
    if node is not None and _size(node, {}) > _LARGEST:
        raise ValueError(f"its aliases stand for more than {_LARGEST} values")
    return safe_load(text)


def _size(node: Any, known: dict[int, int]) -> int:
    """Return how many values a node of PyYAML stands for, with aliases written out: a few lines can say billions."""
    if isinstance(node.value, str):
        return 1
    size = known.get(id(node))
    if size is None:
        known[id(node)] = _LARGEST  # what holds itself is endless
        inner = (each for pair in node.value for each in (pair if isinstance(pair, tuple) else (pair,)))
        size = known[id(node)] = 1 + sum(_size(each, known) for each in inner)
    return size


def _lines(text: str) -> dict[str, int]:
    """Return the lines of the keys; below 0 that of a key that stands twice in its table."""
    from yaml import SafeLoader, compose

    found: dict[str, int] = {}
    for path, line in _walk(compose(text, SafeLoader), ""):
        found[path] = -line if path in found else line
    return found


def _walk(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Yield path and line of everything in a node of PyYAML."""
    if node is None or isinstance(node.value, str):
        return
    for place, each in enumerate(node.value):
        if isinstance(each, tuple):
            key, value = each
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield inner, key.start_mark.line + 1
        else:
            value, inner = each, f"{path}[{place}]"
            yield inner, each.start_mark.line + 1
        yield from _walk(value, inner)


def _reason(error: Exception) -> str:
    """Say what a parser found wrong, and in which line; YAML's says that over several lines, and the place last."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return str(error).splitlines()[0]
    context = getattr(error, "context", None)
    return f"line {mark.line + 1}: {problem}" + (f" {context}" if context else "")
