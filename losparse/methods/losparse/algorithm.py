r"""LoSparse: low-rank plus structured sparse, trained together. This file reads like the paper.

    W ~ u v + sparse            start: thin SVD, balanced; sparse = W - u v, so the model starts exactly dense
    I   = |sparse * dL/dsparse|          sensitivity of every entry                        (eq. 5)
    avg = beta avg + (1 - beta) mean I   smoothed over windows of a few optimizer steps    (eq. 6)
    Gamma_i = mean_j avg_ij              importance of output neuron i                     (eq. 7)
    keep the neurons with the largest Gamma over all layers, as many as the cubic schedule allows  (eq. 8, 9)

Where the reference implementation and the paper differ, or the former is faulty, this file says what it does:
sensitivity is taken before the optimizer step, so that weight and gradient belong together; the last phase fixes the
mask, so a trained model has exactly the rows it was trained with; the budget is `keep` with the rank part as really
stored, and it is never exceeded.

References:
    LoSparse: Structured Compression of Large Language Models based on Low-Rank and Sparse Approximation,
    arXiv:2306.11222. PLATON, arXiv:2206.12562 (the uncertainty term, off by default as in LoSparse's scripts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...layers.spec import Axis
from .coupling import AnyFamily, choose_groups, live_groups
from .layer import FactoredLinearTraining


@torch.no_grad()
def split(
    weight: Tensor, bias: Tensor | None, *, rank: int, axis: Axis, elementwise: bool, by_heads: bool = False
) -> FactoredLinearTraining:
    """Split a dense weight into `u v + sparse`, exactly.

    Args:
        weight: dense weight; (out, in).
        bias: (out,) or None.
        rank: of the low-rank part; 0 leaves the whole weight to the sparse one.
        axis: side of the weight that is kept in groups.
        elementwise: keep statistics of every element, not of groups.
        by_heads: heads go whole, with their low-rank part.

    Returns:
        The layer in its training form, equal to the dense one.

    References:
        LoSparse, arXiv:2306.11222, section 3.1, Algorithm 1 line 2.
    """
    out_features, in_features = weight.shape
    layer = FactoredLinearTraining(
        in_features,
        out_features,
        rank=rank,
        axis=axis,
        bias=bias is not None,
        elementwise=elementwise,
        by_heads=by_heads,
        device=weight.device,
        dtype=weight.dtype,
    )
    if rank == 0:
        layer.copy_(sparse=weight, bias=bias)
        return layer
    u, v = balanced_svd(weight, rank)
    layer.copy_(u=u, v=v, sparse=weight - u @ v, bias=bias)
    return layer


def balanced_svd(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best rank-`rank` factors with the singular values split evenly between them.

    Args:
        weight: (out, in).
        rank: 0..min(out, in).

    Returns:
        u (out, rank) and v (rank, in), in fp32 or wider.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    left, sigma, right = torch.linalg.svd(wide, full_matrices=False)
    root = sigma[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


@dataclass(frozen=True)
class CubicSchedule:
    """How much of the residual is kept after optimizer step t, in three phases.

    Attributes:
        initial: steps in which everything is kept.
        final: steps at the end in which the mask is fixed.
        total: all optimizer steps.

    References:
        LoSparse, arXiv:2306.11222, eq. 9 (Zhu and Gupta, arXiv:1710.01878).
    """

    initial: int
    final: int
    total: int

    def kept_share(self, step: int, target: float) -> float:
        """Return the share of the residual kept after `step` (1..total), falling from 1 to `target`."""
        if step <= self.initial:
            return 1.0
        if self.is_final(step):
            return target
        left = 1.0 - (step - self.initial) / (self.total - self.initial - self.final)
        return target + (1.0 - target) * left**3

    def is_final(self, step: int) -> bool:
        """Tell whether the mask is fixed at `step`; the ramp ends on the target, so its last step counts."""
        return step >= self.total - self.final


@torch.no_grad()
def accumulate_sensitivity(layer: FactoredLinearTraining, gradient: Tensor) -> None:
    """Add one step's sensitivity |sparse * dL/dsparse| to the window; eq. 5, and where heads go whole, of u or v too.

    The mean over a group commutes with the averages over steps, so one number per group is enough unless PLATON's
    uncertainty is asked for.
    """
    sensitivity = (layer.sparse * gradient).abs_()  # (out, in)
    layer.score_sum += sensitivity if layer.elementwise else sensitivity.mean(dim=1 if layer.axis == "out" else 0)
    layer.window_count += 1
    factor = layer.grouped_factor
    if layer.beside_sum is not None and factor is not None and factor.grad is not None:
        layer.beside_sum += (factor * factor.grad).abs_().sum(dim=1 if layer.axis == "out" else 0)


@torch.no_grad()
def close_window(layer: FactoredLinearTraining, beta: float, uncertainty_beta: float | None) -> None:
    """Fold the window's mean into the moving averages; eq. 6, and PLATON eq. 8 for the uncertainty."""
    mean = layer.score_sum / layer.window_count.clamp(min=1)
    if layer.uncertainty_avg is not None and uncertainty_beta is not None:
        layer.uncertainty_avg.lerp_((mean - layer.score_avg).abs(), 1.0 - uncertainty_beta)
    layer.score_avg.lerp_(mean, 1.0 - beta)
    if layer.beside_avg is not None and layer.beside_sum is not None:
        layer.beside_avg.lerp_(layer.beside_sum / layer.window_count.clamp(min=1), 1.0 - beta)
        layer.beside_sum.zero_()
    layer.score_sum.zero_()
    layer.window_count.zero_()


def group_importance(layer: FactoredLinearTraining) -> Tensor:
    """Return the importance of every group; eq. 7; (groups,)."""
    if not layer.elementwise:
        return layer.score_avg
    score = layer.score_avg if layer.uncertainty_avg is None else layer.score_avg * layer.uncertainty_avg
    return score.mean(dim=1 if layer.axis == "out" else 0)


@torch.no_grad()
def update_masks(layers: Mapping[str, FactoredLinearTraining], families: Sequence[AnyFamily], budget: int) -> None:
    """Keep the most important groups over all layers that fit into `budget` parameters; eq. 8."""
    scores = {name: group_importance(layer) for name, layer in layers.items()}
    # With PLATON's uncertainty the scores are in nats squared, and those of the factors are not.
    beside = {
        n: layer.beside_avg for n, layer in layers.items() if layer.beside_avg is not None and not layer.elementwise
    }
    sizes = {name: layer.group_size for name, layer in layers.items()}
    masks = choose_groups(families, scores, sizes, budget, beside)
    live = live_groups(families, masks)
    for name, layer in layers.items():
        layer.mask.copy_(masks[name])
        if layer.live is not None and name in live:
            layer.live.copy_(live[name])
        layer.apply_mask()
