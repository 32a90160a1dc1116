"""Tokenised examples: rows of plain lists, not padded, and what tokenizers give and take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from losparse_runtime.contract.tensors import TEXT_INPUTS

from ..errors import LosparseError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED = -100
"""Label of tokens that carry none: torch's cross entropy leaves them out."""

NOTES = "notes"
"""Key of what a metric must know of a row beside its labels, in rows that a metric looks at; no model takes it."""


class Rows(Protocol):
    """A map-style data set: as many dicts of plain lists as it is long."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, row: int, /) -> dict[str, Any]:
        """Return one row."""


class Tokenized(Sequence[dict[str, Any]]):
    """Tokenised examples: a map-style data set of dicts of plain lists, which any torch `DataLoader` takes.

    Attributes:
        truncated: how many examples did not fit into the maximum length.
        notes: whole numbers that the task's metric must know of each row beside its labels; None for most tasks.
    """

    def __init__(
        self, rows: list[dict[str, Any]], truncated: int = 0, notes: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Hold the rows."""
        self._rows = rows
        self.truncated = truncated
        self.notes = notes

    @classmethod
    def joined(cls, parts: Sequence[Tokenized]) -> Tokenized:
        """Return the rows of all parts, one after another."""
        rows = [row for part in parts for row in part._rows]
        notes = None
        if parts and all(part.notes is not None for part in parts):
            notes = [note for part in parts for note in part.notes or ()]
        return cls(rows, sum(part.truncated for part in parts), notes)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        """Return one row (as a copy, since collators pop from it), or a slice of rows."""
        if isinstance(row, slice):
            return Tokenized(self._rows[row], self.truncated, None if self.notes is None else self.notes[row])
        return dict(self._rows[row])

    def measurable(self) -> Tokenized:
        """Return the rows with their notes under `NOTES`, if they have any."""
        if self.notes is None:
            return self
        rows = [{**row, NOTES: list(note)} for row, note in zip(self._rows, self.notes, strict=True)]
        return Tokenized(rows, self.truncated, self.notes)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, *, pair: bool) -> None:
    """Refuse a tokenizer that cannot do what is asked of it.

    Raises:
        LosparseError: it is a slow one, or its special tokens leave no room for a text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise LosparseError(f"the tokenizer must be a fast one (tokenizer.json), got {type(tokenizer).__name__}")
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise LosparseError(f"max_length must be above the {special} special tokens of every text, got {max_length}")


def model_inputs(encoded: BatchEncoding, rows: int) -> Iterator[dict[str, list[int]]]:
    """Yield what a model takes of each row that a tokenizer gave."""
    names = [name for name in TEXT_INPUTS if name in encoded]
    return ({name: encoded[name][row] for name in names} for row in range(rows))


def count_truncated(encoded: BatchEncoding) -> int:
    """Return how many texts a tokenizer has cut."""
    return sum(bool(encoding.overflowing) for encoding in encoded.encodings)
