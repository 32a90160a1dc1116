"""Kept input features as whole columns of the weight, the others low rank: two tensors in, nothing copied.

    x -> Slice(kept) ---> MatMul(W_kept^T) --------------------+-> Add -> Add(bias)
    x -> Slice(others) -> MatMul(v_others^T) -> MatMul(u^T) ---+

At rank 0 the others are not read at all. For layers whose inputs come from layers that keep the same neurons: those
write kept and other neurons apart (`folded`), `passes.segments` cancels their Concat against these Slices, and both
parts flow through the activation on their own.
"""

from __future__ import annotations

import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape, low_rank_products, present, sparse_product

NAME = "split"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers whose inputs do not come in two parts."""
    if not layer.kept:
        return "the layer has no sparse part (kept 0)"
    if layer.axis != "in":
        return "the layer keeps rows (axis 'out'): its inputs are read whole"
    if layer.order is None or layer.order.side != "in" or not layer.order.split:
        return "its inputs do not come from layers that keep the same neurons"
    return None


def cost(layer: PlannedLayer) -> Counts:
    """The products alone."""
    others = layer.in_features - layer.kept
    products = [sparse_product(layer), *low_rank_products(layer, inputs=others)]
    return Counts(products, nodes=3)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    spec, kept = layer.spec, layer.spec.kept
    y = tape.matmul(tape.slice(layer.x, 0, kept, width=spec.in_features), "columns_t", layer.dense_weight()[:, :kept])
    if spec.rank and kept < spec.in_features:
        others = tape.slice(layer.x, kept, spec.in_features, width=spec.in_features)
        hidden = tape.matmul(others, "v_t", present(layer.whole_v)[:, kept:])
        y = tape.add(tape.matmul(hidden, "u_t", present(layer.whole_u)), y, spec.out_features)
    return tape.add_bias(y)
