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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from ...errors import LosparseError
from ...layers.budget import check_share, rank_for
from ...layers.factored import Axis, FactoredLinear
from ...models.roles import writes_residual
from ..base import About
from .coupling import Family, choose_groups, couple, separate
from .layer import FactoredLinearTraining

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True)
class LoSparse:
    """LoSparse with its budget, structure and schedule.

    Attributes:
        keep: kept share of the parameters of the compressed layers; (0, 1].
        low_rank: share of the rank part in the same unit; it is a part of `keep`, which holds the sparse part too.
        structure: "rows" keeps output neurons everywhere, each layer for itself, as the paper does; "columns" keeps
            input features in the layers that write to the residual stream; "foldable" does so too and lets layers
            decide together (see `coupling`), so that an exported graph needs neither scatter nor gather.
        multiple: kept counts of coupled layers are a multiple of this; for "foldable" only.
        beta: memory of the sensitivity average, per window; [0, 1).
        uncertainty_beta: memory of PLATON's uncertainty average, per window, or None to leave the term out. It needs
            statistics of every element: three more tensors of the weight's size per layer.
        window: optimizer steps over which sensitivity is averaged, and between two masking steps of the ramp.
        initial_share: share of training before the first group is dropped.
        final_share: share of training after the last group is dropped, with the mask fixed.
        initial_steps: the same as steps; overrides the share.
        final_steps: the same as steps; overrides the share.
    """

    keep: float = 0.2
    low_rank: float = 0.05
    structure: Literal["rows", "columns", "foldable"] = "foldable"
    multiple: int = 8
    beta: float = 0.85
    uncertainty_beta: float | None = None
    window: int = 10
    initial_share: float = 0.05
    final_share: float = 0.4
    initial_steps: int | None = None
    final_steps: int | None = None

    trains: ClassVar[bool] = True
    about: ClassVar[About] = About(
        summary="low rank plus structured sparse, trained together",
        needs=("labels", "gradients", "training"),
        cost="a fine-tuning",
        reference="LoSparse, arXiv:2306.11222",
    )

    def __post_init__(self) -> None:
        """Check every field."""
        check_share("keep", self.keep)
        self._check_low_rank()
        if self.structure not in ("rows", "columns", "foldable"):
            raise LosparseError(f"structure must be 'rows', 'columns' or 'foldable', got {self.structure!r}")
        for name in ("beta", "uncertainty_beta", "initial_share", "final_share"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise LosparseError(f"{name} must be in [0, 1), got {value!r}")
        for name, unit in (("window", "optimizer step"), ("multiple", "group")):
            if getattr(self, name) < 1:
                raise LosparseError(f"{name} must be at least 1 {unit}, got {getattr(self, name)}")
        for name in ("initial_steps", "final_steps"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise LosparseError(f"{name} must be 0 or more optimizer steps, got {value}")
        if self.initial_share + self.final_share >= 1.0:
            raise LosparseError(
                f"initial_share + final_share must be below 1 to leave steps for pruning, "
                f"got {self.initial_share} + {self.final_share}"
            )

    def _check_low_rank(self) -> None:
        check_share("low_rank", self.low_rank)
        if self.low_rank > self.keep:
            raise LosparseError(f"low_rank must not exceed keep={self.keep:g}, got {self.low_rank:g}")

    def axis_of(self, name: str) -> Axis:
        """Return which side of the layer's weight is kept in groups."""
        return "in" if self.structure != "rows" and writes_residual(name) else "out"

    def families(self, layers: Mapping[str, FactoredLinearTraining], config: Any = None) -> list[Family]:
        """Return which layers decide together what they keep; `config` is the model's, for its number of heads."""
        return couple(layers, config, multiple=self.multiple) if self.structure == "foldable" else separate(layers)

    def rank_of(self, name: str, out_features: int, in_features: int) -> int:
        """Return the rank of the layer's low-rank part.

        Raises:
            LosparseError: the share leads to a rank at break-even.
        """
        return rank_for(self.low_rank, out_features, in_features, name=name, round_up=True)

    @torch.no_grad()
    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> FactoredLinear:
        """Split a dense weight into `u v + sparse`, exactly.

        Args:
            name: qualified name of the layer.
            weight: dense weight; (out, in).
            bias: (out,) or None.

        Returns:
            The layer in its training form, equal to the dense one.

        References:
            LoSparse, arXiv:2306.11222, section 3.1, Algorithm 1 line 2.
        """
        out_features, in_features = weight.shape
        rank = self.rank_of(name, out_features, in_features)
        layer = FactoredLinearTraining(
            in_features,
            out_features,
            rank=rank,
            axis=self.axis_of(name),
            bias=bias is not None,
            elementwise=self.uncertainty_beta is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        if rank == 0:
            layer.copy_(sparse=weight, bias=bias)
            return layer
        u, v = balanced_svd(weight, rank)
        layer.copy_(u=u, v=v, sparse=weight - u @ v, bias=bias)
        return layer

    def schedule(self, total_steps: int) -> CubicSchedule:
        """Return the schedule of a training of `total_steps` optimizer steps.

        Raises:
            LosparseError: nothing is left between the initial and the final phase.
        """
        initial = round(self.initial_share * total_steps) if self.initial_steps is None else self.initial_steps
        final = round(self.final_share * total_steps) if self.final_steps is None else self.final_steps
        if initial + final >= total_steps:
            raise LosparseError(
                f"the pruning schedule needs more than {initial} initial + {final} final steps, "
                f"training has {total_steps}; train longer, or lower initial_steps/final_steps"
            )
        return CubicSchedule(initial=initial, final=final, total=total_steps)

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return the callback that scores and prunes."""
        from .callback import LoSparseCallback  # training imports the methods

        return (LoSparseCallback(self),)

    def sparse_budget(self, layers: Sequence[FactoredLinearTraining]) -> int:
        """Return how many residual parameters fit into `keep` beside the factors that are stored."""
        dense = sum(layer.in_features * layer.out_features for layer in layers)
        factors = sum(layer.rank * (layer.in_features + layer.out_features) for layer in layers)
        return max(0, math.floor(self.keep * dense + 1e-6) - factors)


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
    """Add one step's sensitivity |sparse * dL/dsparse| to the window; eq. 5.

    The mean over a group commutes with the averages over steps, so one number per group is enough unless PLATON's
    uncertainty is asked for.
    """
    sensitivity = (layer.sparse * gradient).abs_()  # (out, in)
    layer.score_sum += sensitivity if layer.elementwise else sensitivity.mean(dim=1 if layer.axis == "out" else 0)
    layer.window_count += 1


@torch.no_grad()
def close_window(layer: FactoredLinearTraining, beta: float, uncertainty_beta: float | None) -> None:
    """Fold the window's mean into the moving averages; eq. 6, and PLATON eq. 8 for the uncertainty."""
    mean = layer.score_sum / layer.window_count.clamp(min=1)
    if layer.uncertainty_avg is not None and uncertainty_beta is not None:
        layer.uncertainty_avg.lerp_((mean - layer.score_avg).abs(), 1.0 - uncertainty_beta)
    layer.score_avg.lerp_(mean, 1.0 - beta)
    layer.score_sum.zero_()
    layer.window_count.zero_()


def group_importance(layer: FactoredLinearTraining) -> Tensor:
    """Return the importance of every group; eq. 7; (groups,)."""
    if not layer.elementwise:
        return layer.score_avg
    score = layer.score_avg if layer.uncertainty_avg is None else layer.score_avg * layer.uncertainty_avg
    return score.mean(dim=1 if layer.axis == "out" else 0)


@torch.no_grad()
def update_masks(layers: Mapping[str, FactoredLinearTraining], families: Sequence[Family], budget: int) -> None:
    """Keep the most important groups over all layers that fit into `budget` parameters; eq. 8."""
    scores = {name: group_importance(layer) for name, layer in layers.items()}
    masks = choose_groups(families, scores, {name: layer.group_size for name, layer in layers.items()}, budget)
    for name, layer in layers.items():
        layer.mask.copy_(masks[name])
        layer.apply_mask()
