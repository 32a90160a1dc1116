"""Tables of a report: cells that carry the number they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown.
        value: the number it shows, not rounded; None for words, and where nothing was measured.
        mark: "good" or "bad" where it is one of them, "noisy" of a time that is not to be quoted.
        low: lower end of the number's 95 % interval, where there is one.
        high: its upper end.
    """

    text: str
    value: float | None = None
    mark: str = ""
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        interval = {"low": self.low, "high": self.high} if self.low is not None else {}
        return {"text": self.text, "value": self.value, **({"mark": self.mark} if self.mark else {}), **interval}


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: for readers of the JSON.
        title: above it.
        note: below it; may be empty.
        columns: headings.
        rows: cells, as many in a row as there are columns; the first names the row.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "note": self.note,
            "columns": list(self.columns),
            "rows": [[cell.to_dict() for cell in row] for row in self.rows],
        }


def number(value: float | None, show: Callable[[float | None], str], mark: str = "") -> Cell:
    """Return the cell of a number."""
    return Cell(show(value), value, mark)


def words(*texts: str) -> tuple[Cell, ...]:
    """Return cells of words."""
    return tuple(Cell(text) for text in texts)


def dropping_empty(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[Sequence[str], Any]:
    """Leave out columns in which no row shows anything, as of accuracy that nobody measured."""
    kept = [place for place in range(len(columns)) if place == 0 or any(row[place].text for row in rows)]
    return [columns[place] for place in kept], tuple(tuple(row[place] for place in kept) for row in rows)
