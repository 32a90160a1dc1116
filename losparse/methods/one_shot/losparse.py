"""One-shot LoSparse: low rank plus kept rows without training, in closed form.

    S = W - u v,  e_i = g_i s_i G s_i^T      keeping row i of the residual removes exactly this error of the outputs;
                                             G the inputs' second moment, g_i what an error of output i costs the loss
    rank and rows together                   one more rank costs in + out - 2 rank - 1 parameters, one more row costs
                                             in: what removes most error per stored parameter is taken, in a layer and
                                             over all layers
    u v again, for the rows not kept         then rows again, a few times

With principal outputs U and their energies, e_i at every rank is a sum of energy_j U_ij^2 over the ranks left out, so
that all sizes of a layer are known from one eigendecomposition. An allocation that is free to choose takes no rows
at all where low rank does more, and leaves a layer dense where everything else costs too much. The weights g are
what makes the errors of different layers one currency; they take a backward pass over the texts, but no labels.

References:
    LoSparse, arXiv:2306.11222, for the form; the closed-form scores are ours. OATS, arXiv:2409.13652, alternates the
    same two steps with an unstructured sparse part. Hybrid matrix factorisation, arXiv:2010.03193, keeps rows beside
    a low rank of all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...validation import ShareBelow1, ZeroOrMore, checked
from ..base import Description
from .allocate import Candidates, Size, dense_size
from .base import Allocation, OneShot
from .metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from ...calibration.statistics import LayerStatistics, Statistic
    from ...layers.factored import FactoredLinear

_RANKS = 48
_ROWS = 24


@checked
class OneShotLoSparse(OneShot):
    """Low rank plus kept rows, chosen by the error they remove; needs texts, and a backward pass over them.

    Attributes:
        row_share: share of a layer's budget that goes to kept rows; 0 is low rank alone. Left out, "global"
            chooses, layer by layer, and other allocations take 0. With "uniform" it is hybrid matrix factorisation.
        alternations: how often the low-rank part and the kept rows are fitted to each other.
    """

    allocation: Allocation = "global"
    row_share: ShareBelow1 | None = None
    alternations: ZeroOrMore = 3

    looks_at: ClassVar[frozenset[Statistic]] = frozenset({"gram", "sensitivity"})
    description: ClassVar[Description] = Description(
        summary="low rank plus kept rows by the error they remove",
        needs=("texts", "gradients"),
        cost="minutes on a CPU: a few passes over texts",
        reference="losparse; form of LoSparse, arXiv:2306.11222",
    )

    @property
    def compensates(self) -> bool:
        """The bias takes over the mean of what is dropped."""
        return True

    def metric(self, statistics: LayerStatistics) -> Metric:
        """Return the inputs' covariance, (in, in), and what an error of each output costs, (out,)."""
        assert statistics.inputs is not None and statistics.sensitivity is not None, "the driver collects them"
        return Metric(
            inputs=statistics.inputs.second_moment(centred=True), outputs=statistics.sensitivity / statistics.tokens
        )

    def at_share(self, name: str, share: float, out_features: int, in_features: int) -> Size:
        """Return the size that stores a share of the dense weight, rows and low rank together."""
        if share >= 1.0 or not self.row_share:
            return super().at_share(name, share, out_features, in_features)
        rows = int(share * self.row_share * out_features)
        rest = share - rows / out_features
        return Size(super().at_share(name, rest, out_features, in_features).rank, rows)

    def candidates(self, name: str, weight: Tensor, statistics: LayerStatistics) -> Candidates:
        """Return the sizes a layer could have, and dense."""
        from .rows import left_by_rows

        out_features, in_features = weight.shape
        errors = self.project(name, weight, statistics).row_errors()  # (out, n + 1)
        sizes = self._grid(out_features, in_features, errors.shape[1] - 1)
        ranks = sorted({size.rank for size in sizes})
        left = left_by_rows(errors[:, ranks]).numpy()  # (out + 1, ranks)
        column = {rank: place for place, rank in enumerate(ranks)}
        return Candidates(
            [*sizes, dense_size(out_features)],
            np.array([*(self.cost(size, out_features, in_features) for size in sizes), weight.numel()], float),
            np.array([*(left[size.kept, column[size.rank]] for size in sizes), 0.0]),
        )

    def _grid(self, out_features: int, in_features: int, largest: int) -> list[Size]:
        """Return the sizes to choose from that store less than the dense weight."""
        if self.row_share is not None:
            shares = np.linspace(0.0, 1.0, _RANKS + 2)[1:-1]
            found = {self.at_share("", share, out_features, in_features) for share in shares} | {Size(0)}
        else:
            ranks = {round(rank) for rank in np.linspace(0, largest, min(_RANKS, largest + 1))}
            rows = {round(kept) for kept in np.linspace(0, out_features, _ROWS)}
            found = {Size(self.round(rank) if rank else 0, kept) for rank in ranks for kept in rows}
        return sorted(size for size in found if self.cost(size, out_features, in_features) < out_features * in_features)

    def factor(
        self, name: str, weight: Tensor, bias: Tensor | None, statistics: LayerStatistics, size: Size
    ) -> FactoredLinear:
        """Return the small layer of a given size: rows and low-rank part fitted to each other."""
        if not size.kept or size == dense_size(len(weight)):
            return super().factor(name, weight, bias, statistics, size)
        from .rows import layer_with_rows

        metric = self.metric(statistics)
        return layer_with_rows(name, weight, bias, metric, size, statistics, alternations=self.alternations)
