"""Labelled texts of a csv, tsv or jsonl file, with the standard library alone.

`losparse.data` reads the same files for training, and more of them; a serving machine has neither that nor pandas.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

TEXTS = ("text", "sentence", "sentence1", "premise", "question1", "content", "review")
PAIRS = {"sentence1": "sentence2", "premise": "hypothesis", "question1": "question2"}
LABELS = ("label", "labels", "category", "class", "target")
_SUFFIXES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class Labelled:
    """Labelled texts.

    Attributes:
        texts: the texts.
        pairs: second text of each; None where there are none.
        labels: of each, as they are written.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[str]


def read_labelled(
    file: Path | str, text_column: str | None = None, pair_column: str | None = None, label_column: str | None = None
) -> Labelled:
    """Read labelled texts.

    Args:
        file: csv, tsv or jsonl; the first line of the first two names the columns.
        text_column: of texts; None for the usual names.
        pair_column: of second texts; None for the usual name beside that of the texts, where there is one.
        label_column: of labels; None for the usual names.

    Raises:
        InputError: the file or a column is not there, or a row lacks a text or label.
    """
    path = Path(file)
    rows = _rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = _column(path, columns, text_column, TEXTS)
    label = _column(path, columns, label_column, LABELS)
    usual = PAIRS.get(text) if text_column is None else None
    pair = pair_column if pair_column is not None else usual if usual in columns else None
    if pair is not None and pair not in columns:
        raise InputError(f"{path} has no column {pair!r}; its columns are {', '.join(columns)}")
    texts = [_text(path, place, row, text) for place, row in enumerate(rows)]
    pairs = None if pair is None else [_text(path, place, row, pair) for place, row in enumerate(rows)]
    return Labelled(texts, pairs, [_label(path, place, row, label) for place, row in enumerate(rows)])


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"labelled texts must be an existing {', '.join(_SUFFIXES)} file, got '{path}'")
    try:
        content = path.read_bytes().decode("utf-8-sig")
        rows = _objects(content) if path.suffix.lower() == ".jsonl" else _separated(content, path.suffix.lower())
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} must have at least one row, each with its columns")
    return rows


def _objects(content: str) -> list[Any]:
    """Read a JSON object a line; `splitlines` would also split at U+2028 inside a text."""
    return [json.loads(line) for line in content.split("\n") if line.strip()]


def _separated(content: str, suffix: str) -> list[dict[str, Any]]:
    """Read csv or tsv; only csv itself knows which line breaks end a row."""
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the 128 KiB that csv allows by default
    stream = io.StringIO(content, newline="")
    tabs = suffix == ".tsv"
    reader = csv.reader(stream, csv.excel_tab, quoting=csv.QUOTE_NONE) if tabs else csv.reader(stream, strict=True)
    header: list[str] | None = None
    rows: list[dict[str, Any]] = []
    for values in reader:
        if not values:
            continue
        if header is None:
            header = [name.strip() for name in values]
            if len(set(header)) < len(header):
                raise ValueError(f"column names must differ, got {', '.join(header)}")
        elif len(values) != len(header):
            raise ValueError(f"line {reader.line_num} has {len(values)} values, the first line names {len(header)}")
        else:
            rows.append(dict(zip(header, values, strict=True)))
    return rows


def _column(path: Path, columns: Sequence[str], named: str | None, usual: Sequence[str]) -> str:
    wanted = usual if named is None else (named,)
    found = next((name for name in wanted if name in columns), None)
    if found is None:
        raise InputError(f"{path} has no column {' or '.join(wanted)}; its columns are {', '.join(columns)}")
    return found


def _text(path: Path, place: int, row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{path}, row {place + 1}: {column!r} must be a text that is not empty, got {value!r}")
    return value


def _label(path: Path, place: int, row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{path}, row {place + 1}: {column!r} must be a label or class id, got {value!r}")
    return str(value)
