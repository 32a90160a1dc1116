"""Rows computed apart and put in their places by a Gather from [rows, zero].

    x -> MatMul(v^T) -> MatMul(u^T) -------------------------------------------------+-> Add -> Add(bias)
    x -> MatMul(rows^T) -> Pad(zero) -> Transpose -> Gather(place_of, 0) -> Transpose +

`place_of[i]` says which row output i is, or the zero behind them. No multiply-add more than the layer has parameters.
The features are brought to the front first because Gather on the last axis copies one float at a time (7-8 ns each: as
long as the product it replaced), while on the first axis it copies whole rows of tokens; with both Transposes the
placing takes 1-1.5 ns a float. Best for many kept rows and many outputs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape, gather_last, low_rank_products, present, sparse_product

NAME = "gather"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers without kept rows."""
    if not layer.kept:
        return "the layer has no sparse part (kept 0)"
    if layer.axis != "out":
        return "the layer keeps columns (axis 'in'): there are no rows to place"
    return None


def cost(layer: PlannedLayer) -> Counts:
    """The products, placing every output, and adding the two parts."""
    parts = 2 if layer.rank else 1
    return Counts(
        [sparse_product(layer), *low_rank_products(layer)],
        nodes=5 + 3 * (parts - 1),
        elements=layer.kept + (parts - 1) * layer.out_features,
        moved=layer.kept + 2 * layer.out_features,
    )


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    kept, out = present(layer.kept), layer.spec.out_features
    place_of = np.full(out, len(kept), np.int64)
    place_of[kept] = np.arange(len(kept))
    rows = tape.matmul(layer.x, "rows_t", present(layer.sparse))
    one_behind, last = tape.constant("pads", np.array([0, 1])), tape.constant("last_axis", np.array([-1]))
    padded = tape.op("Pad", rows, one_behind, None, last)
    y = gather_last(tape, padded, tape.constant("place_of", place_of), layer.x.shape)
    if layer.spec.rank:
        low_rank = tape.matmul(tape.matmul(layer.x, "v_t", present(layer.whole_v)), "u_t", present(layer.whole_u))
        y = tape.add(low_rank, y, out)
    return tape.add_bias(y)
