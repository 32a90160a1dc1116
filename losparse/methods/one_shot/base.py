"""What all one-shot methods share: a metric per layer, a budget, and how it is spent.

A one-shot method needs no training: it replaces every layer by the low-rank part that is best in its metric (see
`low_rank`), after one pass over calibration data at most. It is a frozen dataclass that says which statistics it
needs and which metric it makes of them; everything else is here. One that keeps rows says more, see `OneShot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from ...errors import LosparseError
from ...layers.budget import pivot_rank, rank_for
from ...validation import AnyText, Flag, OneOrMore, Share, checked
from ..base import Description
from .allocate import Candidates, Size, dense_size, last_blocks, parse_weights, proportional_shares, uniform_rank
from .metric import Metric

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

    from ...calibration.statistics import LayerStatistics, Statistic
    from ...layers.factored import FactoredLinear
    from .low_rank import Projection

Allocation = Literal["uniform", "uniform-rank", "last-k", "by-type", "global", "search"]

_ROUNDING = 1e-12
"""Share of a layer's energy below which an error is rounding, and not worth a parameter."""

_TRIED = (0.1, 0.25, 0.4, 0.6, 0.8)
"""Shares that a search tries for every layer."""


@checked
class OneShot:
    """A method without training. What a subclass says depends on what its layers keep.

    A low-rank part alone: `metric`, and where it needs them `looks_at` and `compensates`; the rest is here. Rows as
    well, or alone: `at_share` (sizes of a share, for the allocations by share and "search"), `candidates` (sizes and
    the error each leaves, for "global") and `factor` (the layer of such a size, exactly), for those here know of ranks
    alone; `allocations` leaves out those it has no sizes for.

    Attributes:
        keep: kept share of the parameters of the compressed layers.
        allocation: how `keep` is spent: "uniform" gives every layer the same share; "uniform-rank" the same rank;
            "last-k" compresses only the last blocks, to the same share; "by-type" shares in the proportions of
            `weights`; "global" takes what removes most error per stored parameter, and leaves a layer dense where
            that is best (methods that see inputs weigh the error of every layer by the loss, which takes a backward
            pass over the texts); "search" does so too, and measures the error at the model's outputs, size by size
            and layer by layer, on some of the texts.
        weights: proportions of "by-type", as PATTERN=NUMBER in a row; layers that no pattern matches have 1.
        last: blocks that "last-k" compresses; left out, the smallest number that leaves each of them a third.
        multiple: ranks are rounded down to a multiple of this, where that leaves any.
        pivots: store the low-rank part by pivot rows (after fine-tuning, if there is any): rank^2 parameters fewer,
            exactly, which the budget counts.
        joint: layers that read the same input (query, key and value; gate and up) are factored as one, and share one
            right factor; by the name of the first of them, where names count. Takes one batch of texts to see them.
    """

    keep: Share = 0.2
    allocation: Allocation = "uniform"
    weights: AnyText | None = None
    last: OneOrMore | None = None
    multiple: OneOrMore = 1
    pivots: Flag = True
    joint: Flag = False

    trains: ClassVar[bool] = False
    allocations: ClassVar[tuple[Allocation, ...]] = get_args(Allocation)
    """Those that it can follow. "uniform-rank" and "global" give ranks, unless it says `sizes` or `candidates` itself.
    """
    looks_at: ClassVar[frozenset[Statistic]] = frozenset()
    description: ClassVar[Description]

    def __post_init__(self) -> None:
        """Check what several fields say together."""
        if self.allocation not in self.allocations:
            raise LosparseError(
                f"allocation must be one of {', '.join(self.allocations)} for {type(self).__name__}, "
                f"got {self.allocation!r}"
            )
        if (self.weights is not None) != (self.allocation == "by-type"):
            raise LosparseError(
                f"weights are for allocation='by-type', which needs them; got allocation={self.allocation!r} and "
                f"weights={self.weights!r}"
            )
        if self.weights is not None:
            parse_weights(self.weights)
        if self.joint and self.allocation == "search":
            raise LosparseError("joint is for every allocation but 'search', which tries layers one by one")
        if self.last is not None and self.allocation != "last-k":
            raise LosparseError(f"last is for allocation='last-k', got allocation={self.allocation!r}")

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return nothing: training after the factoring is ordinary."""
        return ()

    @property
    def measured(self) -> bool:
        """Whether sizes are chosen by the error they leave, and not by shares."""
        return self.allocation in ("global", "search")

    def trials(self, name: str, out_features: int, in_features: int, *, fine: bool = False) -> list[Size]:
        """Return the sizes of a layer that a search tries, or may end at; rising in cost, dense is not among them."""
        shares = np.arange(_TRIED[0], 1.0, 0.02) if fine else np.array(_TRIED)
        sizes = {self.at_share(name, float(share), out_features, in_features) for share in shares}
        return sorted(sizes - {dense_size(out_features)}, key=lambda size: self.cost(size, out_features, in_features))

    @property
    def statistics(self) -> frozenset[Statistic]:
        """What is collected of every layer."""
        weighs = self.allocation == "global" and "gram" in self.looks_at
        return self.looks_at | {"sensitivity"} if weighs else self.looks_at

    @property
    def needs_texts(self) -> bool:
        """Whether calibration data is looked at."""
        return bool(self.statistics) or self.joint

    @property
    def compensates(self) -> bool:
        """Whether the bias takes over the mean of what is dropped."""
        return False

    def metric(self, statistics: LayerStatistics) -> Metric:
        """Return the metric of one layer."""
        return Metric()

    def cost(self, size: Size, out_features: int, in_features: int) -> int:
        """Return the parameters a size stores."""
        overlap = size.rank if self.pivots else 0
        return size.rank * (in_features + out_features - overlap) + size.kept * in_features

    def sizes(self, shapes: Mapping[str, tuple[int, int]], blocks: Mapping[str, int]) -> dict[str, Size]:
        """Return the size of every layer, for the allocations that need no statistics.

        Args:
            shapes: (out, in) by qualified name.
            blocks: number of the block that a layer is in, counted from 0; layers outside have none.

        Raises:
            LosparseError: a share that cannot be met.
        """
        if self.allocation == "uniform-rank":
            rank = uniform_rank(list(shapes.values()), self.keep, self.cost)
            return {name: self._at_most(Size(self.round(rank)), *shape) for name, shape in shapes.items()}
        shares = dict.fromkeys(shapes, self.keep)
        parameters = {name: out * width for name, (out, width) in shapes.items()}
        if self.allocation == "last-k":
            shares = last_blocks(parameters, blocks, self.keep, self.last)
        elif self.weights is not None:
            shares = proportional_shares(parameters, parse_weights(self.weights), self.keep)
        return {name: self.at_share(name, shares[name], *shape) for name, shape in shapes.items()}

    def at_share(self, name: str, share: float, out_features: int, in_features: int) -> Size:
        """Return the size that stores a share of the dense weight, rounded down.

        Raises:
            LosparseError: without pivots, the rank reaches break-even.
        """
        if share >= 1.0:
            return dense_size(out_features)
        if self.pivots:
            return Size(self.round(pivot_rank(share, out_features, in_features)))
        return Size(self.round(rank_for(share, out_features, in_features, name=name, round_up=False)))

    def _at_most(self, size: Size, out_features: int, in_features: int) -> Size:
        """Return the size, or dense where that stores no more."""
        small = size.rank < min(out_features, in_features) and (
            self.cost(size, out_features, in_features) < out_features * in_features
        )
        return size if small else dense_size(out_features)

    def round(self, rank: int) -> int:
        """Round a rank down to the multiple, but not to nothing."""
        return max(rank // self.multiple * self.multiple, min(rank, self.multiple))

    def project(self, name: str, weight: Tensor, statistics: LayerStatistics) -> Projection:
        """Return the principal outputs of a layer in the method's metric."""
        from .low_rank import project

        return project(weight, self.metric(statistics), name)

    def candidates(self, name: str, weight: Tensor, statistics: LayerStatistics) -> Candidates:
        """Return the sizes a layer could have and the error each leaves, for the global allocation.

        The error is the squared one in the method's metric: of the outputs, weighed by the mean sensitivity of the
        loss to them; or, where nothing says how much a layer's outputs matter beside another's, as a share of the
        whole.
        """
        out_features, in_features = weight.shape
        lost = self.project(name, weight, statistics).lost().numpy()
        lost[lost < _ROUNDING * lost[0]] = 0.0
        sensitivity = statistics.sensitivity
        unit = (
            1.0 / max(float(lost[0]), 1e-300) if sensitivity is None else float(sensitivity.mean()) / statistics.tokens
        )
        ranks = sorted({self.round(rank) if rank else 0 for rank in range(len(lost))})
        sizes = [Size(rank) for rank in ranks if self._at_most(Size(rank), out_features, in_features) == Size(rank)]
        dense = dense_size(out_features)
        return Candidates(
            sizes=[*sizes, dense],
            costs=np.array([*(self.cost(size, out_features, in_features) for size in sizes), weight.numel()], float),
            errors=np.array([*(lost[size.rank] for size in sizes), 0.0]) * unit,
        )

    def factor(
        self, name: str, weight: Tensor, bias: Tensor | None, statistics: LayerStatistics, size: Size
    ) -> FactoredLinear:
        """Return the small layer of a given size.

        Args:
            name: qualified name of the layer.
            weight: dense weight; (out, in).
            bias: (out,) or None.
            statistics: what was collected of the layer.
            size: rank and kept rows.
        """
        from .layer import dense_layer, low_rank_layer

        if size == dense_size(len(weight)):
            return dense_layer(weight, bias)
        found = self.project(name, weight, statistics)
        return low_rank_layer(weight, bias, found, size, statistics if self.compensates else None)
