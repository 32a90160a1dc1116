"""Rows with named columns from csv, tsv and jsonl files, or from a data set of the hub.

    .csv      comma separated, quoted with ", first line = column names
    .tsv      tab separated, no quoting (a tab or a line break cannot be in a value), first line = column names
    .jsonl    one JSON object per line
    .txt      a text a line, under the column name `text`; only where no label is needed
    owner/name[@config][:split]    a data set of the Hugging Face hub; needs the package `datasets`

A .txt means the same wherever one is read, and the same as the lines that `losparse run` reads: a line is what other
tools take for a text too (the text loader of `datasets`), and a list of sentences without blank lines, taken for one
long text, would be cut to its beginning without a word. Texts of several lines are written as jsonl. Blank lines are no
texts; where they could mean that texts of several lines stand between them, the file is refused.

Files are utf-8. What cannot be read is refused with the line it is in; nothing is skipped or repaired in silence.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import LosparseError

SUFFIXES = (".csv", ".tsv", ".jsonl")
PLAIN = ".txt"

_HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w.-]+)(@(?P<config>[\w.-]+))?(:(?P<split>[\w.\[\]%+-]+))?")


@dataclass(frozen=True)
class Table:
    """Rows of one file or data set.

    Attributes:
        name: what messages call it.
        columns: column names, in order.
        rows: one dict per row; a jsonl row may lack columns.
        lines: line of the file in which each row ends (row number for a data set), from 1.
        classes: class names of columns that the data set itself declares as classes.
        plain: whether the file is plain text, so its one column has no name of its own that an option could give.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    lines: list[int]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    plain: bool = False

    def where(self, row: int) -> str:
        """Return how a message points at a row."""
        return f"{self.name}, line {self.lines[row]}"

    def whole(self, row: int, column: str, text: str) -> str:
        """Return a text of a row, unless JSON's escapes made half of a character in it, which is no utf-8.

        Raises:
            LosparseError: a surrogate stands alone in it.
        """
        half = re.search("[\ud800-\udfff]", text)
        if half is not None:
            raise LosparseError(
                f"{self.where(row)}: '{column}' must be whole characters, got {half[0]!r} at {half.start()}, half of a "
                "pair that stands for one; take it out, or write the character itself"
            )
        return text


def read_table(
    source: str | Path,
    *,
    split: str = "train",
    plain: bool = False,
    open_hub: Callable[..., Any] | None = None,
) -> Table:
    """Read a file by its suffix, or a hub data set if no such file exists and the name has the form of one.

    Args:
        source: path, or `owner/name[@config][:split]`.
        split: split of a hub data set whose name gives none.
        plain: whether plain text (.txt) will do.
        open_hub: opens a hub data set by its name, its configuration and `split=`; default: `datasets.load_dataset`.

    Raises:
        LosparseError: there is no such file or data set, it is empty, or a line of it cannot be read.
    """
    check_source(source, plain=plain)
    path = Path(source)
    table = _read_file(path) if path.is_file() else _read_hub(str(source), split, open_hub)
    if not table.rows:
        raise LosparseError(f"{table.name} has no rows; it needs at least one under its column names")
    return table


def check_source(source: str | Path, *, plain: bool = False) -> None:
    """Refuse what no table can be read from, by its name alone: nothing is opened, and the hub is not asked.

    Args:
        source: see `read_table`.
        plain: see `read_table`.

    Raises:
        LosparseError: it is a folder, a file of another suffix, or neither a file nor a hub data set's name; or data
            sets of the hub cannot be read here.
    """
    path, suffixes = Path(source), (*SUFFIXES, PLAIN) if plain else SUFFIXES
    if path.is_dir():
        raise LosparseError(f"data must be a {_one_of(suffixes)} file, got the folder '{path}'")
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix not in suffixes:
            raise LosparseError(f"data must be a {_one_of(suffixes)} file, got '{path}'")
        return
    name = str(source)
    if _HUB_NAME.fullmatch(name) is None or suffix in {*SUFFIXES, PLAIN, ".json", ".parquet"}:
        raise LosparseError(
            f"no data file '{name}'; give a {_one_of(suffixes)} file or a hub data set as owner/name[@config][:split]"
        )
    if find_spec("datasets") is None:
        raise LosparseError(f"no data file '{name}', and reading it from the hub needs: pip install 'losparse[train]'")


def _read_file(path: Path) -> Table:
    suffix = path.suffix.lower()
    text = _decode(path)
    if not text.strip():
        needed = "at least one text" if suffix == PLAIN else "column names and at least one row"
        raise LosparseError(f"{path} is empty; it needs {needed}")
    if suffix == PLAIN:
        return _read_plain(path, text)
    return _read_jsonl(path, text) if suffix == ".jsonl" else _read_separated(path, text, tabs=suffix == ".tsv")


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        read = error.object  # without a mark at its beginning
        line = read.count(b"\n", 0, error.start) + 1
        raise LosparseError(
            f"{path}, line {line}: byte 0x{read[error.start]:02x} is not utf-8; save the file as utf-8"
        ) from None


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, blank ones too; they end in LF or CR LF, and a CR alone ends none."""
    lines = re.split("\r?\n", text)
    return lines if lines[-1] else lines[:-1]  # the last line may end or not


def _read_plain(path: Path, text: str) -> Table:
    """Read a text a line.

    Raises:
        LosparseError: blank lines stand between lines that follow each other, so it may hold texts of several lines.
    """
    found = [(number, line) for number, line in enumerate(split_lines(text), start=1) if line.strip()]
    gap = next((line + 1 for (line, _), (after, _) in pairwise(found) if after > line + 1), None)
    joined = next((line for (line, _), (after, _) in pairwise(found) if after == line + 1), None)
    if gap is not None and joined is not None:
        raise LosparseError(
            f"{path}: a .txt must hold a text a line, got blank lines (line {gap}) and lines that follow each other "
            f"(line {joined}), as of texts of several lines; take blank lines out, or write such texts as jsonl"
        )
    rows: list[dict[str, Any]] = [{"text": line} for _, line in found]
    return Table(str(path), ("text",), rows, [number for number, _ in found], plain=True)


def _read_separated(path: Path, text: str, *, tabs: bool) -> Table:
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the 128 KiB the csv module allows by default
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    records = _records(path, text, tabs=tabs)
    _, header = next(records)
    columns = tuple(name.strip() for name in header)
    if len(set(columns)) < len(columns) or not all(columns):
        raise LosparseError(f"{path}, line 1: column names must differ and not be empty, got {', '.join(columns)}")
    for line, values in records:
        if len(values) != len(columns):
            way_out = "a value cannot hold a tab" if tabs else "quote values that hold a comma"
            raise LosparseError(
                f"{path}, line {line}: expected {len(columns)} values ({', '.join(columns)}), got {len(values)}; "
                f"{way_out}"
            )
        lines.append(line)
        rows.append(dict(zip(columns, values, strict=True)))
    return Table(str(path), columns, rows, lines)


def _records(path: Path, text: str, *, tabs: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of its last line and the values of every record that is not blank."""
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, csv.excel_tab, quoting=csv.QUOTE_NONE) if tabs else csv.reader(stream, strict=True)
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error as error:
        raise LosparseError(f"{path}, line {reader.line_num}: {error}") from None


def _read_jsonl(path: Path, text: str) -> Table:
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    for line, content in enumerate(text.split("\n"), start=1):  # splitlines would also split at U+2028 inside a text
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:  # a number of too many digits is no JSONDecodeError
            raise LosparseError(f"{path}, line {line}: every line must be a JSON object; {error}") from None
        if not isinstance(row, dict):
            raise LosparseError(f"{path}, line {line}: every line must be a JSON object, got {type(row).__name__}")
        lines.append(line)
        rows.append(row)
    return Table(str(path), tuple(dict.fromkeys(name for row in rows for name in row)), rows, lines)


def _read_hub(name: str, split: str, open_hub: Callable[..., Any] | None) -> Table:
    import datasets

    match = _HUB_NAME.fullmatch(name)
    assert match is not None, "a name that check_source took"
    opened = datasets.load_dataset if open_hub is None else open_hub
    try:
        data = opened(match["name"], match["config"], split=match["split"] or split)
    except Exception as error:  # the hub client raises many unrelated types: network, no such name, no such split
        reason = " ".join(str(error).split())
        raise LosparseError(f"no data file '{name}', and it did not open as a hub data set: {reason}") from error
    inner = {column: getattr(feature, "feature", feature) for column, feature in data.features.items()}  # lists of tags
    classes = {column: tuple(each.names) for column, each in inner.items() if isinstance(each, datasets.ClassLabel)}
    return Table(name, tuple(data.column_names), list(data), list(range(1, len(data) + 1)), classes)


def _one_of(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1]
