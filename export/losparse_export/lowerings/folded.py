"""Kept neurons first, as whole rows of the weight; the low-rank part gives the others. Nothing is placed.

    x -> MatMul(W_kept^T) -> Add(bias) -------------------+
    x -> MatMul(v^T) -> MatMul(u_others^T) -> Add(bias) --+-> Concat

At rank 0 the others are their bias. For layers whose outputs the fold pass put in order, in one block or the same way
in every head. Where every reader of the outputs keeps the same neurons, the Concat is taken out again afterwards
(`passes.segments`) and nothing is copied.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape, low_rank_products, present, sparse_product

NAME = "folded"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers whose kept rows do not come first."""
    if not layer.kept:
        return "the layer has no sparse part (kept 0)"
    if layer.axis != "out":
        return "the layer keeps columns (axis 'in'): there are no rows to put first"
    if layer.order is None or layer.order.side != "out":
        return "the order of its outputs is fixed, so its kept rows lie anywhere"
    if not layer.order.blocks:
        return "its kept rows differ from head to head, so they lie in no regular way"
    return None if layer.order.first == 0 else "a partner's kept neurons come before its own"


def cost(layer: PlannedLayer) -> Counts:
    """The products, and the Concat where it stays."""
    others = layer.out_features - layer.kept
    products = [sparse_product(layer), *low_rank_products(layer, outputs=others)]
    stays = layer.order is None or not layer.order.split
    return Counts(
        products,
        nodes=4 if stays else 3,
        elements=layer.out_features if stays else 0,
    )


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    spec, order = layer.spec, layer.spec.order
    assert order is not None, "check() saw the order"
    kept = present(layer.kept)
    others = np.setdiff1d(np.arange(spec.out_features), kept)
    bias = layer.bias_values
    rows = tape.affine(layer.x, "rows_t", layer.dense_weight()[kept], None if bias is None else bias[kept])
    if not len(others):
        return rows
    if spec.rank:
        hidden = tape.matmul(layer.x, "v_t", present(layer.whole_v))
        rest = tape.affine(hidden, "u_t", present(layer.whole_u)[others], None if bias is None else bias[others])
    else:  # the others are their bias, whatever comes in
        width = len(others)
        rest = tape.broadcast(tape.zeros(width) if bias is None else tape.constant("bias_t", bias[others]), width)
    return tape.concat([rows, rest], [len(kept), len(others)], blocks=order.blocks)
