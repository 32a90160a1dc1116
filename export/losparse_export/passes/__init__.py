"""What is done to every graph before and after its layers are lowered, in an order that matters."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from .attention import AttentionLayoutPass
from .dedupe import ShareWeightsPass
from .flatten import FlattenTokensPass
from .naming import NamePass

__all__ = [
    "AttentionLayoutPass",
    "FlattenTokensPass",
    "NamePass",
    "ShareWeightsPass",
    "finish_model",
    "prepare_model",
]


def prepare_model(model: ir.Model) -> ir.Model:
    """Make the graph around the layers cheap, dense layers included; in place, before anything is lowered.

    Returns:
        The same model, whose token-wise nodes and factored layers work on (batch * sequence, features).
    """
    ir.passes.Sequential(AttentionLayoutPass(), FlattenTokensPass(), common.RemoveUnusedNodesPass())(model)
    return model


def finish_model(model: ir.Model) -> ir.Model:
    """Drop what is unused, store equal weights once, name everything, drop the trace's metadata; in place.

    Returns:
        The same model: equal input models give equal bytes.
    """
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        ShareWeightsPass(),
        common.TopologicalSortPass(),
        # Names come from the scopes that the trace left in the metadata, so they go before it.
        NamePass(),
        common.ClearMetadataAndDocStringPass(),
        common.RemoveUnusedOpsetsPass(),
    )(model)
    return model
