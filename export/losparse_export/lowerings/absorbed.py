"""Kept neurons as whole rows of the weight, the others low rank, and one Gather that puts all in their places.

    x -> MatMul(W_kept^T) -------------------+
    x -> MatMul(v^T) -> MatMul(u_others^T) --+-> Concat -> Transpose -> Gather(place_of, 0) -> Transpose -> Add(bias)

A kept row of `u v + sparse` is a row of the merged weight, so its row of `u` need not be stored: rank parameters fewer
for every kept row, and no Add. The way by the first axis is explained in `gather`. For layers whose outputs could not
be put in order.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape, gather_last, low_rank_products, present, sparse_product

NAME = "absorbed"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers without kept rows or without a low-rank part."""
    if not layer.kept:
        return "the layer has no sparse part (kept 0)"
    if layer.axis != "out":
        return "the layer keeps columns (axis 'in'): there are no rows to absorb"
    return None if layer.rank else "the layer has no low-rank part (rank 0) to absorb rows from"


def cost(layer: PlannedLayer) -> Counts:
    """The products, and placing every output."""
    others = layer.out_features - layer.kept
    products = [sparse_product(layer), *low_rank_products(layer, outputs=others)]
    return Counts(products, nodes=7, elements=layer.out_features, moved=3 * layer.out_features)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    kept, out = present(layer.kept), layer.spec.out_features
    others = np.setdiff1d(np.arange(out), kept)
    rows = tape.matmul(layer.x, "rows_t", layer.dense_weight()[kept])
    low_rank = tape.matmul(layer.x, "v_t", present(layer.whole_v))
    if len(others):
        rest = tape.matmul(low_rank, "u_t", present(layer.whole_u)[others])
        rows = tape.concat([rows, rest], [len(kept), len(others)])
    place_of = tape.constant("place_of", np.argsort(np.concatenate([kept, others])))
    return tape.add_bias(gather_last(tape, rows, place_of, layer.x.shape))
