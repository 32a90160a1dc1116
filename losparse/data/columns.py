"""Columns of a table: which one holds what, and its values, checked row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LosparseError, shown
from .tables import Table

TEXT_COLUMNS = ("text", "sentence", "sentence1", "premise", "question1", "content", "review")
PAIR_OF = {"sentence1": "sentence2", "premise": "hypothesis", "question1": "question2"}


@dataclass(frozen=True)
class Columns:
    """Columns that are named by option; where one is None, the first of a task's usual ones is taken.

    Attributes:
        text: of texts, words or questions.
        pair: of second texts or contexts.
        label: of labels, tags, answers or numbers.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


def find_column(table: Table, named: str | None, usual: Sequence[str], option: str) -> str:
    """Return the column to read: the named one, or the first of the usual ones that the table has.

    Args:
        table: where to look.
        named: by option.
        usual: names that are looked for where no option names one.
        option: its name without "-column", for the message.

    Raises:
        LosparseError: there is no such column.
    """
    wanted = (named,) if named is not None else usual
    for name in wanted:
        if name in table.columns:
            return name
    kind = f"column '{named}'" if named is not None else f"column called {' or '.join(usual)}"
    headed = Path(table.name).suffix.lower() in (".csv", ".tsv")
    header = " (its first line, which must name the columns)" if headed else ""
    raise LosparseError(
        f"{table.name} has no {kind}; its columns are {', '.join(table.columns)}{header}; name one with "
        f"--{option}-column"
    )


def values_of(table: Table, column: str) -> Iterator[Any]:
    """Yield a column's values; None where a row lacks it."""
    return (row.get(column) for row in table.rows)


def text_of(table: Table, row: int, column: str, value: Any) -> str:
    """Return a value that is a text.

    Raises:
        LosparseError: it is none, or an empty one.
    """
    if not isinstance(value, str) or not value.strip():
        raise LosparseError(f"{table.where(row)}: '{column}' must be a text that is not empty, got {shown(value)}")
    return table.whole(row, column, value)


def texts_of(table: Table, column: str) -> list[str]:
    """Return a column's texts.

    Raises:
        LosparseError: see `text_of`.
    """
    return [text_of(table, row, column, value) for row, value in enumerate(values_of(table, column))]


def texts_and_pairs(table: Table, columns: Columns) -> tuple[list[str], list[str] | None]:
    """Return texts, and the second texts beside them where the table has a column of them.

    Raises:
        LosparseError: a column is not there, or a text is missing or empty.
    """
    first = find_column(table, columns.text, TEXT_COLUMNS, "text")
    partner = PAIR_OF.get(first)
    named = columns.pair is not None or columns.text is not None
    second = columns.pair if named or partner not in table.columns else partner
    texts = texts_of(table, first)
    return texts, None if second is None else texts_of(table, find_column(table, second, (), "pair"))
