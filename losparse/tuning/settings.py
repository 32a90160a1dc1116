"""What a search looks at, and what it must reach."""

from __future__ import annotations

from typing import Annotated, get_args

from ..errors import LosparseError
from ..methods.losparse.method import Structure
from ..validation import (
    NotEmpty,
    NotNegative,
    OneOf,
    OneOrMore,
    Positive,
    Share,
    ShareBetween,
    ShareFrom0,
    Size,
    checked,
)

StructureName = Annotated[str, OneOf(lambda: get_args(Structure))]
Keeps = Annotated[tuple[ShareBetween, ...], NotEmpty()]


@checked
class Search:
    """A search.

    Attributes:
        target_latency: milliseconds that a run may take, at the first shape of the bench.
        target_speedup: how many times faster than the dense model in fp32 it must be there.
        target_bytes: largest size of a variant's files, as in 20MB.
        max_drop: points that the result may lie below the dense model on `data.test`; left out, the recipe's gate.
        keeps: shares of the layers' parameters that are tried.
        structures: of the sparse part.
        low_ranks: shares of the low-rank part; where one is not below a keep, that pair is left out.
        depths: shares of the transformer blocks to keep, evenly spaced; 1 for all.
        trainings: forms that are trained at most.
        first_share: share of the steps of `compress.training` that each is trained for at first; the better half goes
            on with twice as many.
    """

    target_latency: Positive | None = None
    target_speedup: Positive | None = None
    target_bytes: Size | None = None
    max_drop: NotNegative | None = None
    keeps: Keeps = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
    structures: Annotated[tuple[StructureName, ...], NotEmpty()] = ("narrow", "foldable")
    low_ranks: Annotated[tuple[ShareFrom0, ...], NotEmpty()] = (0.0, 0.05)
    depths: Annotated[tuple[Share, ...], NotEmpty()] = (1.0, 0.5)
    trainings: OneOrMore = 6
    first_share: ShareBetween = 0.125

    def __post_init__(self) -> None:
        """Refuse a search without a target."""
        if self.target_latency is None and self.target_speedup is None and self.target_bytes is None:
            raise LosparseError("a search needs a target: --target-latency, --target-speedup or --target-bytes")
