"""What is done to every graph before and after its layers are lowered, in an order that matters.

A pass of one's own is one file and one line in `PREPARE` or `FINISH`, or in those of a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes import common

from ..costs import Costs, Traffic
from ..graph.naming import NamePass
from ..graph.opsets import NEWEST
from .attention import AttentionLayoutPass
from .attention_rank import ReduceAttentionPass
from .cache import CachedAttentionPass
from .constant_rows import ConstantRowsPass
from .dedupe import ShareWeightsPass
from .flatten import FlattenTokensPass
from .fold import Fold, fold_model
from .last_tokens import LastTokensPass, OfferStartPass
from .masks import WidenMasksPass
from .older import OlderOpsetPass
from .parts import ReadPartsPass
from .precision import MarkPrecisionPass, WantPrecisionPass, quantised_nodes
from .rotary import RotaryPass
from .segments import SplitSegmentsPass
from .share import SharePass
from .squeeze import NameSqueezedAxesPass
from .sums import SumsPass


@dataclass(frozen=True)
class Finishing:
    """What passes may ask about the graph they work on.

    Attributes:
        costs: of the machine it is for.
        calls: it is for.
        precision: which products outside the layers to quantise: "fp32" for none, "int8" for those that are faster for
            it, "all".
        layers: the same by qualified name of a layer.
        opset: ONNX operator set that the file shall have.
    """

    costs: Costs
    calls: Traffic
    precision: str = "fp32"
    layers: Mapping[str, str] = field(default_factory=dict)
    opset: int = NEWEST


PassMaker = Callable[[Finishing], ir.passes.PassBase]

# In front of the lowering.
PREPARE: tuple[PassMaker, ...] = (
    lambda _: NameSqueezedAxesPass(),
    lambda _: ReadPartsPass(),
    lambda _: common.RemoveUnusedNodesPass(),
    lambda _: RotaryPass(),
    lambda _: CachedAttentionPass(),
    lambda _: common.RemoveUnusedNodesPass(),
    lambda _: LastTokensPass(),
    lambda _: WidenMasksPass(),
    lambda _: AttentionLayoutPass(),
    lambda _: FlattenTokensPass(),
    lambda _: common.RemoveUnusedNodesPass(),
)

# Behind it.
FINISH: tuple[PassMaker, ...] = (
    lambda _: ConstantRowsPass(),
    lambda _: common.RemoveUnusedNodesPass(),
    # First of all: the passes behind it join products only where the same is wanted of them.
    lambda asked: WantPrecisionPass(asked.precision, asked.layers),
    lambda asked: ReduceAttentionPass(asked.costs),
    lambda _: SplitSegmentsPass(),
    # Before the sums: a stacked product takes the biases of its parts along.
    lambda asked: SharePass(asked.costs, asked.calls),
    lambda _: common.RemoveUnusedNodesPass(),
    lambda asked: MarkPrecisionPass(asked.costs, asked.calls),
    lambda _: SumsPass(),
    lambda _: common.RemoveUnusedNodesPass(),
    # Behind all that know operators by their names.
    lambda asked: OlderOpsetPass(asked.opset),
    lambda _: common.RemoveUnusedNodesPass(),
    lambda _: ShareWeightsPass(),
    lambda _: common.TopologicalSortPass(),
    # Names come from the scopes that the trace left in the metadata, so they go before it.
    lambda _: NamePass(),
)

# When the marks of the passes have been read.
LAST: tuple[PassMaker, ...] = (
    lambda _: OfferStartPass(),
    lambda _: common.ClearMetadataAndDocStringPass(),
    lambda _: common.RemoveUnusedOpsetsPass(),
)

__all__ = [
    "FINISH",
    "LAST",
    "PREPARE",
    "AttentionLayoutPass",
    "CachedAttentionPass",
    "ConstantRowsPass",
    "Finishing",
    "FlattenTokensPass",
    "Fold",
    "LastTokensPass",
    "MarkPrecisionPass",
    "NamePass",
    "NameSqueezedAxesPass",
    "OfferStartPass",
    "OlderOpsetPass",
    "PassMaker",
    "ReadPartsPass",
    "ReduceAttentionPass",
    "RotaryPass",
    "SharePass",
    "ShareWeightsPass",
    "SplitSegmentsPass",
    "SumsPass",
    "WantPrecisionPass",
    "WidenMasksPass",
    "fold_model",
    "quantised_nodes",
]
