"""LoSparse as a value: its budget, structure and schedule; what is computed with them stands in `algorithm`.

Values are read, checked and described without torch, so what computes is imported where it is called.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from ...errors import LosparseError
from ...layers.budget import rank_for
from ...models.roles import kind_of, writes_residual
from ...validation import OneOrMore, Share, ShareBelow1, ZeroOrMore, checked
from ..base import Description
from .shares import LowRank, check_patterns, in_words, largest, share_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, TrainerCallback

    from ...layers.spec import Axis
    from .algorithm import CubicSchedule
    from .coupling import AnyFamily
    from .layer import FactoredLinearTraining


Structure = Literal["rows", "columns", "foldable", "narrow"]
"""What layers keep, and which of them decide together."""
DEFAULT_STRUCTURE: Structure = "narrow"

_MULTIPLES: dict[Structure, int] = {"foldable": 8, "narrow": 16}
"""Of kept counts: what is kept of a narrow graph's neurons is the width of a product, and those work on 16 at a time.
"""

_LOW_RANK = 0.05  # the paper's
# Beside whole heads a low-rank part in the attention brought no accuracy, and costs time in every call.
_LOW_RANKS: dict[Structure, float] = {"narrow": 0.0}


@checked
class LoSparse:
    """LoSparse with its budget, structure and schedule.

    Attributes:
        keep: kept share of the parameters of the compressed layers.
        low_rank: share of the rank part in the same unit; it is a part of `keep`, which holds the sparse part too. One
            for all layers (at "narrow", for those of attention), or a table by kind of layer (attention, ffn, other)
            and by pattern of names as in targets, which win over kinds; what is not listed has none. Left out,
            0.05, and none at "narrow".
        structure: "rows" keeps output neurons everywhere, each layer for itself, as the paper does; "columns" keeps
            input features in the layers that write to the residual stream; "foldable" does so too and lets layers
            that feed each other decide together, so that an exported graph needs neither scatter nor gather; "narrow"
            does that with whole heads too, and has a low-rank part in attention alone.
        multiple: kept counts of coupled layers are a multiple of this, for "foldable" and "narrow" only; left out, 8
            for "foldable" and 16 for "narrow".
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
    low_rank: LowRank | None = None
    structure: Structure = DEFAULT_STRUCTURE
    multiple: OneOrMore | None = None
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
        """Fill in what the structure decides, and check what several fields say together."""
        if self.low_rank is None:
            object.__setattr__(self, "low_rank", _LOW_RANKS.get(self.structure, _LOW_RANK))
        self._check_low_rank()
        if self.initial_share + self.final_share >= 1.0:
            raise LosparseError(
                f"initial_share + final_share must be below 1 to leave steps for pruning, "
                f"got {self.initial_share} + {self.final_share}"
            )

    @property
    def rank_share(self) -> float | Mapping[str, float]:
        """Share of the rank part: one for all layers, or by kind of layer and pattern of names."""
        assert self.low_rank is not None, "filled in when the value is made"
        return self.low_rank

    def _check_low_rank(self) -> None:
        most = largest(self.rank_share)
        if most > self.keep:
            raise LosparseError(f"low_rank must not exceed keep={self.keep:g}, got {in_words(self.rank_share)}")

    def check_layers(self, names: Collection[str]) -> None:
        """Refuse settings that name layers which the model does not have.

        Args:
            names: of the layers that are compressed.

        Raises:
            LosparseError: `low_rank` names what is no kind of layer and matches none of them.
        """
        check_patterns(self.rank_share, names)

    def axis_of(self, name: str) -> Axis:
        """Return which side of the layer's weight is kept in groups."""
        return "in" if self.structure != "rows" and writes_residual(name) else "out"

    def families(
        self, layers: Mapping[str, FactoredLinearTraining], config: PretrainedConfig | None = None
    ) -> list[AnyFamily]:
        """Return which layers decide together what they keep; `config` is the model's, for its number of heads."""
        from .coupling import couple, narrow, separate

        multiple = self.multiple or _MULTIPLES.get(self.structure, 1)
        if self.structure == "narrow":
            return narrow(layers, config, multiple=multiple)
        if self.structure == "foldable":
            return [*couple(layers, config, multiple=multiple)]
        return [*separate(layers)]

    def rank_of(self, name: str, out_features: int, in_features: int) -> int:
        """Return the rank of the layer's low-rank part; 0 where its share is 0.

        Raises:
            LosparseError: the share leads to a rank at break-even.
        """
        share = share_of(self.rank_share, name)
        if self.structure == "narrow" and not isinstance(self.rank_share, Mapping) and kind_of(name) != "attention":
            share = 0.0
        return rank_for(share, out_features, in_features, name=name, round_up=True) if share else 0

    def by_heads(self, name: str) -> bool:
        """Tell whether a layer is of an attention whose heads may go whole."""
        return self.structure == "narrow" and kind_of(name) == "attention"

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
            by_heads=self.by_heads(name),
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
