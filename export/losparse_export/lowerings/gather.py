"""Rows computed apart and put in their places by a Gather from [rows, zero].

    x -> MatMul(v^T) -> MatMul(u^T) -------------------------------------------------+-> Add -> Add(bias)
    x -> MatMul(rows^T) -> Pad(zero) -> Transpose -> Gather(place_of, 0) -> Transpose +

`place_of[i]` says which row output i is, or the zero behind them. No multiply-add more than the layer has parameters.
The features are brought to the front first because Gather on the last axis copies one float at a time (7-8 ns each: as
long as the product it replaced), while on the first axis it copies whole rows of tokens; with both Transposes the
placing takes 1-2 ns a float. Best for many kept rows and many outputs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..layer import FactoredNode, LayerShape
from .base import ELEMENT, MOVE, Cost, LayerTape, make_cost, present

NAME = "gather"


def check(layer: LayerShape) -> str | None:
    """Refuse layers without kept rows."""
    if not layer.kept:
        return "the layer has no sparse part (kept 0)"
    if layer.axis != "out":
        return "the layer keeps columns (axis 'in'): there are no rows to place"
    return None


def cost(layer: LayerShape, tokens: int) -> Cost:
    """The products, placing every output, and adding the two parts."""
    parts = 2 if layer.rank else 1
    nodes = 5 + 3 * (parts - 1)
    copied = layer.kept + (parts - 1) * layer.out_features + layer.out_features * MOVE / ELEMENT
    return make_cost(layer.low_rank_parameters + layer.sparse_parameters, nodes=nodes, tokens=tokens, elements=copied)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    kept, out = present(layer.kept), layer.shape.out_features
    place_of = np.full(out, len(kept), np.int64)
    place_of[kept] = np.arange(len(kept))
    rows = tape.matmul(layer.x, "rows_t", present(layer.sparse))
    one_behind, last = tape.constant("pads", np.array([0, 1])), tape.constant("last_axis", np.array([-1]))
    padded = tape.op("Pad", rows, one_behind, None, last)
    y = _gather_last(tape, padded, tape.constant("place_of", place_of), layer.x.shape)
    if layer.shape.rank:
        low_rank = tape.matmul(tape.matmul(layer.x, "v_t", present(layer.v)), "u_t", present(layer.u))
        y = tape.op("Add", low_rank, y)
    return tape.add_bias(y)


def _gather_last(tape: LayerTape, values: ir.Value, places: ir.Value, shape: ir.Shape | None) -> ir.Value:
    """Pick features: (..., a) -> (..., len(places)), by way of the first axis where the number of axes is known."""
    if shape is None:
        return tape.op("Gather", values, places, axis=-1)
    axes = list(range(len(shape)))
    front = tape.op("Transpose", values, perm=[axes[-1], *axes[:-1]])
    return tape.op("Transpose", tape.op("Gather", front, places, axis=0), perm=[*axes[1:], 0])
