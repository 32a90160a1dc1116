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
    same two steps with an unstructured sparse part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..allocate import Candidates, Size
from ..errors import LosparseError
from ..layers import FactoredLinear
from ..statistics import LayerStatistics, Statistic
from ..weighted import Metric, project
from .about import About
from .one_shot import OneShot, compensated, dense_size, empty_like

_RANKS = 48
_ROWS = 24


@dataclass(frozen=True)
class OneShotLoSparse(OneShot):
    """Low rank plus kept rows, chosen by the error they remove; needs texts, and a backward pass over them.

    Attributes:
        rows: whether output neurons may be kept beside the low-rank part; for "global" only, which chooses how many.
        alternations: how often the low-rank part and the kept rows are fitted to each other.
    """

    allocation: Literal["uniform", "uniform-rank", "last-k", "global"] = "global"
    rows: bool = True
    alternations: int = 3

    looks_at: ClassVar[frozenset[Statistic]] = frozenset({"gram", "sensitivity"})
    about: ClassVar[About] = About(
        summary="low rank plus kept rows by the error they remove",
        needs=("texts", "gradients"),
        cost="minutes on a CPU: a few passes over texts",
        reference="losparse; form of LoSparse, arXiv:2306.11222",
    )

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if self.alternations < 0:
            raise LosparseError(f"alternations must be 0 or more, got {self.alternations}")

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

    def candidates(self, name: str, weight: Tensor, statistics: LayerStatistics) -> Candidates:
        """Return the sizes a layer could have: a grid of ranks and kept rows, and dense."""
        out_features, in_features = weight.shape
        errors = self.project(name, weight, statistics).row_errors()  # (out, n + 1)
        ranks = self._ranks(errors.shape[1] - 1)
        kept = np.unique(np.linspace(0, out_features, _ROWS).round().astype(int))[:-1] if self.rows else np.array([0])
        by_row = errors[:, ranks].sort(dim=0, descending=True).values
        removed = torch.cat([by_row.new_zeros(1, len(ranks)), by_row.cumsum(0)])  # of the k rows with most error
        left = (by_row.sum(0) - removed)[kept].clamp(min=0)  # (kept, ranks)
        sizes, costs, remaining = [], [], []
        for column, rank in enumerate(ranks):
            for line, rows in enumerate(kept):
                size = Size(int(rank), int(rows))
                cost = self.cost(size, out_features, in_features)
                if cost < weight.numel():
                    sizes.append(size)
                    costs.append(float(cost))
                    remaining.append(float(left[line, column]))
        return Candidates(
            [*sizes, dense_size(out_features)],
            np.array([*costs, float(weight.numel())]),
            np.array([*remaining, 0.0]),
        )

    def _ranks(self, largest: int) -> list[int]:
        grid = {round(rank) for rank in np.linspace(0, largest, min(_RANKS, largest + 1))}
        return sorted({self.round(rank) if rank else 0 for rank in grid})

    @torch.no_grad()
    def factor(
        self, name: str, weight: Tensor, bias: Tensor | None, statistics: LayerStatistics, size: Size
    ) -> FactoredLinear:
        """Return the small layer of a given size: rows and low-rank part fitted to each other."""
        if not size.kept or size == dense_size(len(weight)):
            return super().factor(name, weight, bias, statistics, size)
        wide, metric = weight.double(), self.metric(statistics)
        kept = _largest(project(wide, metric, name).row_errors()[:, size.rank], size.kept)
        u, v = _fit_others(name, wide, metric, kept, size.rank)
        for _ in range(self.alternations):
            again = _largest(_row_errors(wide, v, metric), size.kept)
            if torch.equal(again, kept):
                break
            kept = again
            u, v = _fit_others(name, wide, metric, kept, size.rank)
        small = u @ v
        small[kept] = wide[kept]
        bias = compensated(weight, small, bias, statistics)
        return empty_like(weight, bias, size).copy_(u=u, v=v, sparse=wide[kept], kept=kept, bias=bias)


def _fit_others(name: str, wide: Tensor, metric: Metric, kept: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best low-rank part of the rows that are not kept; those are stored whole."""
    others = torch.ones(len(wide), dtype=torch.bool)
    others[kept] = False
    own = Metric(inputs=metric.inputs, outputs=None if metric.outputs is None else metric.outputs[others])
    rank_left = min(rank, int(others.sum()))
    part, v = project(wide[others], own, name).factors(wide[others], rank_left)
    u = wide.new_zeros((len(wide), rank))
    u[others, :rank_left] = part
    return u, torch.cat([v, v.new_zeros((rank - rank_left, v.shape[1]))])


def _largest(errors: Tensor, count: int) -> Tensor:
    """Return the rows with the largest errors, sorted; equal ones in their order."""
    order = torch.argsort(errors, descending=True, stable=True)
    rows: Tensor = torch.sort(order[:count]).values
    return rows


def _row_errors(weight: Tensor, v: Tensor, metric: Metric) -> Tensor:
    """Return what of each row's output no combination of v's outputs gives, weighed by what it costs; (out,)."""
    moment, outputs = metric.inputs, metric.outputs
    assert moment is not None and outputs is not None, "the metric of this method has both"
    cross = weight @ moment @ v.T
    inner = torch.linalg.pinv(v @ moment @ v.T, hermitian=True)
    whole = ((weight @ moment) * weight).sum(1)
    errors: Tensor = (whole - ((cross @ inner) * cross).sum(1)).clamp(min=0) * outputs
    return errors
