"""What a compact embedding table is, in sizes: the one description that layers, checkpoints and reports share.

It loads no torch, like `spec`.

    in config.json   {"rows": 30522, "width": 384, "rank": 0, "bits": 8}          8 bits a number, whole rows
                     {"rows": 30522, "width": 384, "rank": 96, "bits": null}      two factors of floating-point numbers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import LosparseError, shown
from .spec import COPY_AGAIN, LARGEST_SIZE, is_whole

TABLE_PARTS = ("rows", "scale", "mix")
"""Tensors of a compact table, as they are called in the weights."""

INT8_BITS = 8


@dataclass(frozen=True)
class TableSpec:
    """Sizes of one compact embedding table.

    Attributes:
        rows: tokens, or positions, that it has a row for.
        width: numbers of an embedding.
        rank: numbers of a stored row that a factor widens; 0 where rows are stored whole.
        bits: 8 where stored rows are int8 with one scale each; None for floating-point numbers.
    """

    rows: int
    width: int
    rank: int
    bits: int | None

    def __post_init__(self) -> None:
        """Check the sizes against each other.

        Raises:
            LosparseError: a size is out of range, or nothing would be compact.
        """
        size = f"{shown(self.rows)}x{shown(self.width)}"
        if self.rows < 1 or self.width < 1:
            raise LosparseError(f"an embedding table needs at least one row and one column, got {size}")
        if not 0 <= self.rank <= self.width:
            raise LosparseError(f"rank must be in 0..{self.width} for a {size} table, got {shown(self.rank)}")
        if self.bits not in (INT8_BITS, None):
            raise LosparseError(f"bits of a table must be {INT8_BITS} or None, got {shown(self.bits)}")
        if self.bits is None and self.rank == 0:
            raise LosparseError(f"a {size} table of whole rows in floating point is no compact one; give rank or bits")

    @property
    def inner(self) -> int:
        """Numbers of a stored row."""
        return self.rank or self.width

    @property
    def words(self) -> str:
        """The sizes in words."""
        rank = f", rank {self.rank}" if self.rank else ""
        return f"{self.rows}x{self.width}{rank}{'' if self.bits is None else ', int8'}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor that the table stores, by part."""
        scale = {} if self.bits is None else {"scale": (self.rows,)}
        mix = {"mix": (self.rank, self.width)} if self.rank else {}
        return {"rows": (self.rows, self.inner), **scale, **mix}

    @property
    def parameters(self) -> int:
        """Numbers that stand for the table: stored rows and the factor; not scales, which are a part of int8."""
        return sum(math.prod(shape) for part, shape in self.shapes().items() if part != "scale")

    @property
    def dense_parameters(self) -> int:
        """Numbers of the table that it stands for."""
        return self.rows * self.width

    def to_entry(self) -> dict[str, Any]:
        """Return the table's entry in the `quantization_config` of config.json."""
        return asdict(self)

    @classmethod
    def from_entry(cls, name: str, entry: Any) -> TableSpec:
        """Read a table's entry in the `quantization_config` of config.json.

        Args:
            name: qualified name of the table, for messages.
            entry: what `to_entry` returned.

        Raises:
            LosparseError: it is no object, or a field is missing, unknown, of another type or out of range.
        """
        broken = f"quantization_config entry of table {name!r} is malformed"
        if not isinstance(entry, Mapping):
            raise LosparseError(f"{broken}: it must be an object, got {shown(entry)}; {COPY_AGAIN}")
        unknown = sorted(str(key) for key in entry if key not in _RULES)
        if unknown:
            raise LosparseError(f"{broken}: it has unknown keys {shown(unknown)}; written by a newer losparse?")
        for key, (wanted, fits) in _RULES.items():
            if key not in entry:
                raise LosparseError(f"{broken}: '{key}' is missing; {COPY_AGAIN}")
            if not fits(entry[key]):
                raise LosparseError(f"{broken}: '{key}' must be {wanted}, got {shown(entry[key])}; {COPY_AGAIN}")
        try:
            return cls(**entry)
        except LosparseError as error:
            raise LosparseError(f"{broken}: {error}; {COPY_AGAIN}") from None


_Rule = tuple[str, Callable[[Any], bool]]
_SIZE: _Rule = (f"a whole number in 1..{LARGEST_SIZE}", lambda value: is_whole(value, 1))
# What a value of an entry must be: in words, and as a test.
_RULES: dict[str, _Rule] = {
    "rows": _SIZE,
    "width": _SIZE,
    "rank": (f"a whole number in 0..{LARGEST_SIZE}", lambda value: is_whole(value, 0)),
    "bits": (
        f"{INT8_BITS} or null",
        lambda value: value is None or (is_whole(value, INT8_BITS, INT8_BITS)),
    ),
}
