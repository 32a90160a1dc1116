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

import torch
from torch import Tensor

from ..losparse.algorithm import CubicSchedule, balanced_svd
from .layer import MixedRankLinear
from .score import Score

_FLOOR = 0.01
"""Smallest row weight d_i^2, as a share of the mean one; without it a dead row would be divided by 0."""


@torch.no_grad()
def unpruned(weight: Tensor, bias: Tensor | None, rank: int) -> MixedRankLinear:
    """Return a layer in its training form, equal to the dense one: nothing is pruned yet.

    Args:
        weight: dense weight; (out, in).
        bias: (out,) or None.
        rank: of the factors that will take its place.
    """
    out_features, in_features = weight.shape
    layer = MixedRankLinear(
        in_features, out_features, rank=rank, bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    layer.copy_(sparse=weight, bias=bias)
    return layer


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
