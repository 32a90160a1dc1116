"""The small layers that one-shot methods make."""

from __future__ import annotations

import torch
from torch import Tensor

from ...calibration.statistics import LayerStatistics
from ...layers.factored import FactoredLinear
from .allocate import Size, dense_size
from .low_rank import Projection


@torch.no_grad()
def low_rank_layer(
    weight: Tensor, bias: Tensor | None, found: Projection, size: Size, statistics: LayerStatistics | None
) -> FactoredLinear:
    """Return the layer of the principal outputs of a dense one.

    Args:
        weight: dense weight; (out, in).
        bias: (out,) or None.
        found: its principal outputs.
        size: its rank.
        statistics: of the layer, where the bias takes over the mean of what is dropped; None where it does not.
    """
    u, v = found.factors(weight, size.rank)
    if statistics is not None:
        bias = compensated(weight, u @ v, bias, statistics)
    return empty_like(weight, bias, size).copy_(u=u, v=v, bias=bias)


@torch.no_grad()
def dense_layer(weight: Tensor, bias: Tensor | None) -> FactoredLinear:
    """Return the layer that keeps everything."""
    return empty_like(weight, bias, dense_size(len(weight))).copy_(sparse=weight, bias=bias)


def empty_like(weight: Tensor, bias: Tensor | None, size: Size) -> FactoredLinear:
    """Return an empty layer of a size, with the dtype and device of a dense weight (out, in)."""
    out_features, in_features = weight.shape
    return FactoredLinear(
        in_features,
        out_features,
        rank=size.rank,
        kept=size.kept,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )


def compensated(weight: Tensor, small: Tensor, bias: Tensor | None, statistics: LayerStatistics) -> Tensor:
    """Return the bias that takes over the mean output of what was dropped: b + (W - W') E[x]; fp64 (out,).

    References:
        Bolaco, arXiv:2405.10616, eq. 2 (for LLM-ROM's projection).
    """
    assert statistics.inputs is not None, "the driver collects what a method asks for"
    lost = (weight.double() - small) @ statistics.inputs.mean.to(weight.device)
    return lost if bias is None else bias.double() + lost
