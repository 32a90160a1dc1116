"""Kept rows beside a low-rank part: which rows, and what is left for the factors; of `losparse`.

`losparse` says what is minimised, and where it comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...calibration.statistics import LayerStatistics
from ...layers.factored import FactoredLinear
from .allocate import Size
from .layer import compensated, empty_like
from .low_rank import project
from .metric import Metric


def left_by_rows(errors: Tensor) -> Tensor:
    """Return the error that is left when the k rows with most error are kept; (out + 1, ranks), a row for each k.

    Args:
        errors: of every row at every rank; (out, ranks).
    """
    by_row = errors.sort(dim=0, descending=True).values
    removed = torch.cat([by_row.new_zeros(1, errors.shape[1]), by_row.cumsum(0)])
    return (removed[-1] - removed).clamp(min=0)


@torch.no_grad()
def layer_with_rows(
    name: str,
    weight: Tensor,
    bias: Tensor | None,
    metric: Metric,
    size: Size,
    statistics: LayerStatistics,
    *,
    alternations: int,
) -> FactoredLinear:
    """Return the small layer of a given size: rows and low-rank part fitted to each other.

    Args:
        name: qualified name of the layer.
        weight: dense weight; (out, in).
        bias: (out,) or None; it takes over the mean of what is dropped.
        metric: in which an error counts.
        size: rank and kept rows, at least one.
        statistics: what was collected of the layer.
        alternations: how often both parts are fitted to each other.
    """
    wide = weight.double()
    errors = project(wide, metric, name).row_errors()
    # Two starts, because rows unlike all others may fill the low-rank part and hide there: the rows that low rank
    # leaves most of, and the rows that weigh most.
    starts = {tuple(_largest(errors[:, rank], size.kept).tolist()) for rank in (size.rank, 0)}
    ends = [_alternate(name, wide, metric, torch.tensor(rows), size.rank, alternations) for rows in sorted(starts)]
    kept, u, v, _ = min(ends, key=lambda end: end[3])
    small = u @ v
    small[kept] = wide[kept]
    bias = compensated(weight, small, bias, statistics)
    return empty_like(weight, bias, size).copy_(u=u, v=v, sparse=wide[kept], kept=kept, bias=bias)


def _alternate(
    name: str, wide: Tensor, metric: Metric, kept: Tensor, rank: int, alternations: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Fit low-rank part and kept rows to each other; returns rows, u, v and the error that is left."""
    u, v = _low_rank_of_others(name, wide, metric, kept, rank)
    errors = _row_errors(wide, v, metric)
    for _ in range(alternations):
        again = _largest(errors, len(kept))
        if torch.equal(again, kept):
            break
        kept = again
        u, v = _low_rank_of_others(name, wide, metric, kept, rank)
        errors = _row_errors(wide, v, metric)
    others = torch.ones(len(wide), dtype=torch.bool)
    others[kept] = False
    return kept, u, v, float(errors[others].sum())


def _low_rank_of_others(name: str, wide: Tensor, metric: Metric, kept: Tensor, rank: int) -> tuple[Tensor, Tensor]:
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
