"""LoSparse as a value: its budget, structure and schedule; what is computed with them stands in `algorithm`.

Values are read, checked and described without torch, so what computes is imported where it is called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from ...errors import LosparseError
from ...layers.budget import rank_for
from ...models.roles import in_attention, writes_residual
from ...validation import OneOrMore, Share, ShareBelow1, ZeroOrMore, checked
from ..base import Description

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, TrainerCallback

    from ...layers.spec import Axis
    from .algorithm import CubicSchedule
    from .coupling import AnyFamily
    from .layer import FactoredLinearTraining


@checked
class LoSparse:
    """LoSparse with its budget, structure and schedule.

    Attributes:
        keep: kept share of the parameters of the compressed layers.
        low_rank: share of the rank part in the same unit; it is a part of `keep`, which holds the sparse part too.
        structure: "rows" keeps output neurons everywhere, each layer for itself, as the paper does; "columns" keeps
            input features in the layers that write to the residual stream; "foldable" does so too and lets layers
            that feed each other decide together, so that an exported graph needs neither scatter nor gather; "narrow"
            does that with whole heads too, and has a low-rank part in attention alone.
        multiple: kept counts of coupled layers are a multiple of this; for "foldable" and "narrow" only.
        beta: memory of the sensitivity average, per window.
        uncertainty_beta: memory of PLATON's uncertainty average, per window; left out, there is no such term. It needs
            statistics of every element: three more tensors of the weight's size per layer.
        window: optimizer steps over which sensitivity is averaged, and between two masking steps of the ramp.
        initial_share: share of training before the first group is dropped.
        final_share: share of training after the last group is dropped, with the mask fixed.
        initial_steps: the same as steps; overrides the share.
        final_steps: the same as steps; overrides the share.
    """

    keep: Share = 0.2
    low_rank: Share = 0.05
    structure: Literal["rows", "columns", "foldable", "narrow"] = "foldable"
    multiple: OneOrMore = 8
    beta: ShareBelow1 = 0.85
    uncertainty_beta: ShareBelow1 | None = None
    window: OneOrMore = 10
    initial_share: ShareBelow1 = 0.05
    final_share: ShareBelow1 = 0.4
    initial_steps: ZeroOrMore | None = None
    final_steps: ZeroOrMore | None = None

    trains: ClassVar[bool] = True
    description: ClassVar[Description] = Description(
        summary="low rank plus structured sparse, trained together",
        needs=("labels", "gradients", "training"),
        cost="a fine-tuning",
        reference="LoSparse, arXiv:2306.11222",
    )

    def __post_init__(self) -> None:
        """Check what several fields say together."""
        self._check_low_rank()
        if self.initial_share + self.final_share >= 1.0:
            raise LosparseError(
                f"initial_share + final_share must be below 1 to leave steps for pruning, "
                f"got {self.initial_share} + {self.final_share}"
            )

    def _check_low_rank(self) -> None:
        if self.low_rank > self.keep:
            raise LosparseError(f"low_rank must not exceed keep={self.keep:g}, got {self.low_rank:g}")

    def axis_of(self, name: str) -> Axis:
        """Return which side of the layer's weight is kept in groups."""
        return "in" if self.structure != "rows" and writes_residual(name) else "out"

    def families(
        self, layers: Mapping[str, FactoredLinearTraining], config: PretrainedConfig | None = None
    ) -> list[AnyFamily]:
        """Return which layers decide together what they keep; `config` is the model's, for its number of heads."""
        from .coupling import couple, narrow, separate

        if self.structure == "narrow":
            return narrow(layers, config, multiple=self.multiple)
        if self.structure == "foldable":
            return [*couple(layers, config, multiple=self.multiple)]
        return [*separate(layers)]

    def rank_of(self, name: str, out_features: int, in_features: int) -> int:
        """Return the rank of the layer's low-rank part.

        Raises:
            LosparseError: the share leads to a rank at break-even.
        """
        if self.structure == "narrow" and not in_attention(name):
            return 0
        return rank_for(self.low_rank, out_features, in_features, name=name, round_up=True)

    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> FactoredLinearTraining:
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
        from .algorithm import split

        return split(
            weight,
            bias,
            rank=self.rank_of(name, *weight.shape),
            axis=self.axis_of(name),
            elementwise=self.uncertainty_beta is not None,
        )

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
        from .algorithm import CubicSchedule

        return CubicSchedule(initial=initial, final=final, total=total_steps)

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return the callback that scores and prunes."""
        from .callback import LoSparseCallback

        return (LoSparseCallback(self),)

    def sparse_budget(self, layers: Sequence[FactoredLinearTraining]) -> int:
        """Return how many residual parameters fit into `keep` beside the factors that are stored."""
        dense = sum(layer.in_features * layer.out_features for layer in layers)
        factors = sum(layer.rank * (layer.in_features + layer.out_features) for layer in layers)
        return max(0, math.floor(self.keep * dense + 1e-6) - factors)
