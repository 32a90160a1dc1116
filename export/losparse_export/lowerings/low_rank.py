"""Two thin products, for layers without a sparse part.

    x -> MatMul(v^T) -> MatMul(u^T) -> Add(bias)

The bias is added once, behind the second product.
"""

from __future__ import annotations

import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape, low_rank_products, present

NAME = "low_rank"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers with a sparse part, or without a low-rank part."""
    if layer.kept:
        return f"the layer has a sparse part (kept {layer.kept})"
    if not layer.rank:
        return "the layer has no low-rank part (rank 0)"
    return None


def cost(layer: PlannedLayer) -> Counts:
    """Two products."""
    return Counts(low_rank_products(layer), nodes=2)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    return tape.add_bias(
        tape.matmul(tape.matmul(layer.x, "v_t", present(layer.whole_v)), "u_t", present(layer.whole_u))
    )
