r"""LPAF, prune first and factor second. This file reads like the paper.

    1. prune      M = sum_t |W * dL/dW|        first-order scores, added up over the steps of a fine-tuning
                  the weights with the lowest M become zero, on a cubic schedule; what remains has a low rank
    2. factor     min || diag(d) (W_sp - u v) ||_F       sparsity-aware SVD, in closed form: SVD of diag(d) W_sp
    3. mix        W = W_sp with probability p, else u v      p falls linearly to 0; then u v is trained alone

The paper's, by its abstract and by those who cite it: only first-order pruning gives weights that are sparse and low
in rank; the SVD that attends to the weights that survived; fine-tuning that mixes both ranks. Its text was not at
hand, so the rest is this file's choice:

* The score. The paper's is, as remembered, movement: - sum_t W * dL/dW (`score="movement"`). That is noise where
  training starts at a minimum, from a model already fine-tuned on the task, as we advise. Seen on MiniLM and SST-2
  (dense 88 %), from the fine-tuned model to density 0.3: chance after 100 steps of movement, 85.6 % after 70 of the
  default. From a pre-trained model and over many steps movement may be the better one.
* Scores add up from the first step. A weight that was pruned stays zero: its score, W times the gradient, stands
  still, so there is nothing by which it could come back.
* Every matrix keeps the same share of weights, as every matrix gets the same share of parameters for its factors.
  That share is `keep`: neither form of the weight then holds more numbers than the other.
* d has one entry per output neuron, d_i^2 = mean score of row i over its weights, those that were pruned counted as 0:
  one weight per row is what has a closed form. Rows (almost) without importance are clamped to a hundredth of the
  mean. Seen in that run, before any recovery: 79.4 % by rows and scores, 76.7 % by rows and counts of survivors,
  76.5 % and 74.5 % by columns, 67.7 % by a plain SVD; the standard error is 1.5.
* W_sp stands still in stage 3. It is the matrix the factors came from, and it is dropped at the end: what it would
  learn would be lost, and the other parameters would have learned to rely on it.
* p is drawn for every layer and optimizer step, from the Trainer's seed and the number of the step alone, so that all
  ranks, all accumulated batches and a resumed training agree.
* No consistency loss between the two paths; distillation is the training's business, not the method's.

References:
    Low-Rank Prune-And-Factorize for Language Model Compression, arXiv:2306.14152. Movement pruning,
    arXiv:2005.07683. FWSVD, arXiv:2207.00112, for the closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ...errors import LosparseError
from ...layers.budget import break_even_rank, check_share, pivot_rank, rank_for
from ..base import About
from ..losparse.method import CubicSchedule, balanced_svd
from .layer import MixedRankLinear

if TYPE_CHECKING:
    from transformers import TrainerCallback

Score = Literal["movement", "sensitivity"]

_FLOOR = 0.01
"""Smallest row weight d_i^2, as a share of the mean one; without it a dead row would be divided by 0."""


@dataclass(frozen=True)
class LPAF:
    """LPAF with its budget and its stages, which are shares of the optimizer steps in this order.

    Attributes:
        keep: kept share of the parameters of the compressed layers; (0, 1].
        uniform_rank: one rank for every layer, as the paper has it, in place of the one that `keep` gives; the share
            it leads to is in the report.
        density: share of every layer's weights that survive pruning; (0, 1]. None takes `keep`.
        score: what is added up over the steps: "sensitivity" abs(W * dL/dW), high where a weight matters; "movement"
            -W * dL/dW, high where it grows away from zero, for long trainings from a model that is only pre-trained.
        window: optimizer steps between two masking steps of the ramp.
        initial_share: share of training before the first weight is dropped; [0, 1).
        prune_share: share of training in which weights are dropped; (0, 1).
        settle_share: share of training with the pruned weights alone, before they are factored; [0, 1).
        mixed_share: share of training with both ranks mixed; (0, 1). What is left trains the factors alone.
        mixed_start: probability of the pruned matrix where mixing begins; [0, 1]. 0 does not mix.
        pivots: store the trained factors by pivots: rank^2 parameters fewer, exactly, which the budget counts.
    """

    keep: float = 0.2
    uniform_rank: int | None = None
    density: float | None = None
    score: Score = "sensitivity"
    window: int = 10
    initial_share: float = 0.05
    prune_share: float = 0.35
    settle_share: float = 0.1
    mixed_share: float = 0.3
    mixed_start: float = 0.5
    pivots: bool = True

    trains: ClassVar[bool] = True
    about: ClassVar[About] = About(
        summary="low rank of a matrix that was pruned first, both trained mixed",
        needs=("labels", "gradients", "training"),
        cost="a fine-tuning",
        reference="LPAF, arXiv:2306.14152",
    )

    def __post_init__(self) -> None:
        """Check every field."""
        check_share("keep", self.keep)
        if self.density is not None:
            check_share("density", self.density)
        if self.uniform_rank is not None and self.uniform_rank < 1:
            raise LosparseError(f"uniform_rank must be at least 1, got {self.uniform_rank}; None follows keep=")
        if self.score not in ("movement", "sensitivity"):
            raise LosparseError(f"score must be 'movement' or 'sensitivity', got {self.score!r}")
        if self.window < 1:
            raise LosparseError(f"window must be at least 1 optimizer step, got {self.window}")
        for name in ("initial_share", "settle_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise LosparseError(f"{name} must be in [0, 1), got {getattr(self, name)!r}")
        for name in ("prune_share", "mixed_share"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise LosparseError(f"{name} must be in (0, 1), got {getattr(self, name)!r}")
        if not 0.0 <= self.mixed_start <= 1.0:
            raise LosparseError(f"mixed_start must be in [0, 1], got {self.mixed_start!r}")
        shares = (self.initial_share, self.prune_share, self.settle_share, self.mixed_share)
        if sum(shares) >= 1.0:
            raise LosparseError(
                "initial_share + prune_share + settle_share + mixed_share must be below 1 to leave steps for the "
                f"factors alone, got {' + '.join(map(str, shares))}"
            )

    def rank_of(self, name: str, out_features: int, in_features: int) -> int:
        """Return the rank of the layer's factors.

        Raises:
            LosparseError: it is at break-even or above, so what is stored would be no smaller than the weight.
        """
        if self.uniform_rank is None:
            if self.pivots:
                return pivot_rank(self.keep, out_features, in_features)
            return rank_for(self.keep, out_features, in_features, name=name, round_up=False)
        limit = float(min(out_features, in_features)) if self.pivots else break_even_rank(out_features, in_features)
        if self.uniform_rank >= limit:
            raise LosparseError(
                f"uniform_rank must be below the break-even {limit:.1f} for {name!r} ({out_features}x{in_features}), "
                f"got {self.uniform_rank}; lower it, or leave the layer dense with ignore="
            )
        return self.uniform_rank

    @torch.no_grad()
    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> MixedRankLinear:
        """Return the layer in its training form, equal to the dense one: nothing is pruned yet.

        Args:
            name: qualified name of the layer.
            weight: dense weight; (out, in).
            bias: (out,) or None.

        Raises:
            LosparseError: the rank is at break-even.
        """
        out_features, in_features = weight.shape
        layer = MixedRankLinear(
            in_features,
            out_features,
            rank=self.rank_of(name, out_features, in_features),
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        layer.copy_(sparse=weight, bias=bias)
        return layer

    def schedule(self, total_steps: int) -> Stages:
        """Return the stages of a training of `total_steps` optimizer steps.

        Raises:
            LosparseError: a stage gets no step.
        """
        initial = round(self.initial_share * total_steps)
        pruned = round((self.initial_share + self.prune_share) * total_steps)
        boundary = round((self.initial_share + self.prune_share + self.settle_share) * total_steps)
        mixed = round((self.initial_share + self.prune_share + self.settle_share + self.mixed_share) * total_steps)
        lengths = {"prune": pruned - initial, "mix": mixed - boundary, "train the factors alone": total_steps - mixed}
        for stage, steps in lengths.items():
            if steps < 1:
                raise LosparseError(
                    f"LPAF needs at least 1 step to {stage}, training has {total_steps} in all; train longer, or "
                    "change prune_share, settle_share or mixed_share"
                )
        pruning = CubicSchedule(initial=initial, final=boundary - pruned, total=boundary)
        return Stages(pruning=pruning, mixed=mixed, total=total_steps, mixed_start=self.mixed_start)

    @property
    def target_density(self) -> float:
        """Share of every layer's weights that survive stage 1."""
        return self.keep if self.density is None else self.density

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return the callback that prunes, factors and mixes."""
        from .callback import LPAFCallback  # training imports the methods

        return (LPAFCallback(self),)


@dataclass(frozen=True)
class Stages:
    """When what happens; steps are counted from 1.

    Attributes:
        pruning: stage 1; its `total` is the boundary, the step after which the layers are factored.
        mixed: last step that may use the pruned matrices.
        total: all optimizer steps.
        mixed_start: probability of the pruned matrix at the first step of stage 3.
    """

    pruning: CubicSchedule
    mixed: int
    total: int
    mixed_start: float

    @property
    def boundary(self) -> int:
        """Last step of stage 1, after which the layers are factored."""
        return self.pruning.total

    def high_rank_probability(self, step: int) -> float:
        """Return the probability that a layer uses its pruned matrix at `step`: linear, from `mixed_start` to 0."""
        if step <= self.boundary:
            return 1.0
        return self.mixed_start * max(0, self.mixed + 1 - step) / (self.mixed - self.boundary)


@torch.no_grad()
def accumulate_score(layer: MixedRankLinear, gradient: Tensor, score: Score) -> None:
    """Add one step's movement -W * dL/dW, or its absolute value, to the scores; in nats.

    References:
        Movement pruning, arXiv:2005.07683, section 4; PLATON, arXiv:2206.12562, eq. 3, for the absolute value.
    """
    movement = -layer.sparse * gradient  # (out, in)
    layer.score.add_(movement if score == "movement" else movement.abs_())


@torch.no_grad()
def prune(layer: MixedRankLinear, share: float) -> None:
    """Keep a share of the layer's weights, those with the highest scores of what is left, and zero the others.

    Args:
        layer: scored; changed in place.
        share: of all its weights, not above what is left; at least one weight stays.
    """
    count = max(1, round(share * layer.sparse.numel()))
    layer.mask.copy_(highest(layer.score.masked_fill(~layer.mask, -torch.inf), count))
    layer.apply_mask()


def highest(scores: Tensor, count: int) -> Tensor:
    """Return a bool mask of exactly the `count` highest scores; among equal ones the first win, so all ranks agree.

    Args:
        scores: any shape, no NaN.
        count: 1..number of scores.
    """
    flat = scores.flatten()
    threshold = torch.topk(flat, count, sorted=False).values.min()
    above, equal = flat > threshold, flat == threshold
    open_places = count - above.sum()
    return (above | (equal & (equal.cumsum(0) <= open_places))).reshape(scores.shape)


def row_weights(score: Tensor, mask: Tensor) -> Tensor:
    """Return d: how much the error at an output neuron counts, by the scores of its weights that survived.

    Args:
        score: accumulated first-order scores, in nats; (out, in).
        mask: which weights survived; bool (out, in).

    Returns:
        d_i = sqrt(max(importance_i, floor * mean importance)), above 0, in nats^(1/2); ones where no score is
        positive; (out,).
    """
    importance = score.masked_fill(~mask, 0.0).clamp(min=0.0).mean(dim=1)  # (out,)
    mean = float(importance.mean())
    return importance.clamp(min=_FLOOR * mean).sqrt() if mean > 0.0 else torch.ones_like(importance)


def sparsity_aware_svd(weight: Tensor, d: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors that minimise || diag(d) (weight - u v) ||_F.

    diag(d) (weight - u v) = diag(d) weight - (diag(d) u) v, and diag(d) u is as free as u: Eckart and Young.

    Args:
        weight: the pruned matrix W_sp; (out, in).
        d: weights of the rows, above 0; (out,).
        rank: 1..min(out, in).

    Returns:
        u (out, rank) and v (rank, in), in fp32 or wider; the singular values split evenly before d is undone.

    References:
        LPAF, arXiv:2306.14152, stage 2; FWSVD, arXiv:2207.00112, section 3, the same with one weight per input.
    """
    u, v = balanced_svd(d[:, None] * weight, rank)
    return u / d[:, None], v


@torch.no_grad()
def factor(layer: MixedRankLinear) -> None:
    """Fill the factors of a pruned layer, in place; evaluation uses them from here on."""
    u, v = sparsity_aware_svd(layer.sparse, row_weights(layer.score, layer.mask), layer.rank)
    layer.copy_(u=u, v=v)
    layer.factored.fill_(True)


def draw_high_rank(probability: float, count: int, *, seed: int, step: int) -> list[bool]:
    """Draw for `count` layers whether each uses its pruned matrix at `step`: the same wherever it is drawn.

    Args:
        probability: of True, for each layer on its own; [0, 1].
        count: layers.
        seed: of the training.
        step: optimizer step.
    """
    # torch's CPU generator reads 32 bits of a seed; the odd factor keeps neighbouring seeds and steps apart.
    generator = torch.Generator().manual_seed((seed * 0x9E3779B1 + step) % 2**32)
    drawn: list[bool] = (torch.rand(count, generator=generator) < probability).tolist()
    return drawn
