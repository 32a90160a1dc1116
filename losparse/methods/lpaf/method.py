"""LPAF as a value: its budget and its stages; what is computed with them stands in `algorithm`.

Values are read, checked and described without torch, so what computes is imported where it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...errors import LosparseError
from ...layers.budget import break_even_rank, pivot_rank, rank_for
from ...validation import Flag, OneOrMore, Share, ShareBelow1, ShareBetween, ShareFrom0, checked
from ..base import Description
from .score import Score

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

    from .algorithm import Stages
    from .layer import MixedRankLinear


@checked
class LPAF:
    """LPAF with its budget and its stages, which are shares of the optimizer steps in this order.

    Attributes:
        keep: kept share of the parameters of the compressed layers.
        uniform_rank: one rank for every layer, as the paper has it, in place of the one that `keep` gives; the share
            it leads to is in the report.
        density: share of every layer's weights that survive pruning; left out, as large a share as `keep`.
        score: what is added up over the steps: "sensitivity" abs(W * dL/dW), high where a weight matters; "movement"
            -W * dL/dW, high where it grows away from zero, for long trainings from a model that is only pre-trained.
        window: optimizer steps between two masking steps of the ramp.
        initial_share: share of training before the first weight is dropped.
        prune_share: share of training in which weights are dropped.
        settle_share: share of training with the pruned weights alone, before they are factored.
        mixed_share: share of training with both ranks mixed. What is left trains the factors alone.
        mixed_start: probability of the pruned matrix where mixing begins; 0 does not mix.
        pivots: store the trained factors by pivots: rank^2 parameters fewer, exactly, which the budget counts.
    """

    keep: Share = 0.2
    uniform_rank: OneOrMore | None = None
    density: Share | None = None
    score: Score = "sensitivity"
    window: OneOrMore = 10
    initial_share: ShareBelow1 = 0.05
    prune_share: ShareBetween = 0.35
    settle_share: ShareBelow1 = 0.1
    mixed_share: ShareBetween = 0.3
    mixed_start: ShareFrom0 = 0.5
    pivots: Flag = True

    trains: ClassVar[bool] = True
    description: ClassVar[Description] = Description(
        summary="low rank of a matrix that was pruned first, both trained mixed",
        needs=("labels", "gradients", "training"),
        cost="a fine-tuning",
        reference="LPAF, arXiv:2306.14152",
    )

    def __post_init__(self) -> None:
        """Check what several fields say together."""
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

    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> MixedRankLinear:
        """Return the layer in its training form, equal to the dense one: nothing is pruned yet.

        Args:
            name: qualified name of the layer.
            weight: dense weight; (out, in).
            bias: (out,) or None.

        Raises:
            LosparseError: the rank is at break-even.
        """
        from .algorithm import unpruned

        return unpruned(weight, bias, self.rank_of(name, *weight.shape))

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
        from ..losparse.algorithm import CubicSchedule
        from .algorithm import Stages

        pruning = CubicSchedule(initial=initial, final=boundary - pruned, total=boundary)
        return Stages(pruning=pruning, mixed=mixed, total=total_steps, mixed_start=self.mixed_start)

    @property
    def target_density(self) -> float:
        """Share of every layer's weights that survive stage 1."""
        return self.keep if self.density is None else self.density

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return the callback that prunes, factors and mixes."""
        from .callback import LPAFCallback

        return (LPAFCallback(self),)
