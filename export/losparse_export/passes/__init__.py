"""What is done to every graph before and after its layers are lowered, in an order that matters."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from ..graph.naming import NamePass
from .attention import AttentionLayoutPass
from .attention_rank import ReduceAttentionPass
from .dedupe import ShareWeightsPass
from .flatten import FlattenTokensPass
from .fold import Fold, fold_model
from .masks import WidenMasksPass
from .precision import MarkPrecisionPass, WantPrecisionPass, quantised_nodes
from .rotary import RotaryPass
from .segments import SplitSegmentsPass
from .share import SharePass
from .squeeze import NameSqueezedAxesPass
from .sums import SumsPass

__all__ = [
    "AttentionLayoutPass",
    "FlattenTokensPass",
    "Fold",
    "MarkPrecisionPass",
    "NamePass",
    "NameSqueezedAxesPass",
    "ReduceAttentionPass",
    "RotaryPass",
    "SharePass",
    "ShareWeightsPass",
    "SplitSegmentsPass",
    "SumsPass",
    "WantPrecisionPass",
    "WidenMasksPass",
    "finish_model",
    "finish_planned",
    "fold_model",
    "prepare_model",
]


def prepare_model(model: ir.Model) -> ir.Model:
    """Make the graph around the layers cheap, dense layers included; in place, before anything is lowered.

    Returns:
        The same model, whose token-wise nodes and factored layers work on (batch * sequence, features).
    """
    ir.passes.Sequential(
        NameSqueezedAxesPass(),
        RotaryPass(),
        WidenMasksPass(),
        AttentionLayoutPass(),
        FlattenTokensPass(),
        common.RemoveUnusedNodesPass(),
    )(model)
    return model


def finish_model(model: ir.Model, *, tokens: int = 128) -> ir.Model:
    """Finish a model of which nothing is quantised; see `finish_planned`."""
    return finish_planned(model, tokens=tokens)[0]


def finish_planned(
    model: ir.Model, *, tokens: int, precision: str = "fp32", layers: Mapping[str, str] | None = None
) -> tuple[ir.Model, list[str]]:
    """Take out what only moves or adds, store equal weights once, name everything, drop the trace's metadata; in place.

    Args:
        model: a lowered model.
        tokens: batch x sequence of the calls to finish for.
        precision: which products outside the layers to quantise: "fp32" for none, "int8" for those that are faster for
            it, "all".
        layers: the same by qualified name of a layer.

    Returns:
        The same model - equal input models give equal bytes - and the names of the products to quantise.
    """
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        # First of all: the passes behind it join products only where the same is wanted of them.
        WantPrecisionPass(precision, layers or {}),
        ReduceAttentionPass(),
        SplitSegmentsPass(),
        # Before the sums: a stacked product takes the biases of its parts along.
        SharePass(tokens),
        common.RemoveUnusedNodesPass(),
        MarkPrecisionPass(),
        SumsPass(),
        common.RemoveUnusedNodesPass(),
        ShareWeightsPass(),
        common.TopologicalSortPass(),
        # Names come from the scopes that the trace left in the metadata, so they go before it.
        NamePass(),
    )(model)
    marked = quantised_nodes(model)
    ir.passes.Sequential(common.ClearMetadataAndDocStringPass(), common.RemoveUnusedOpsetsPass())(model)
    return model, marked
