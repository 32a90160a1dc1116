"""Pivot inputs: all other features act through `rank` of them.

    x -> Slice(others) -> MatMul(D^T) -> Add(Slice(pivots)) -+-> Concat -> MatMul([A | columns]^T) -> Add(bias)
    x -> Slice(kept) ----------------------------------------+

The mirror image of `pivots_out`, for layers whose inputs could be put in order: `v = v_P [I | D]` for pivot features P,
so `u v x = A (x_P + D x_others)` with A = u v_P: rank^2 parameters fewer than the two factors, exactly.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.node import FactoredNode, LayerShape
from .base import LayerTape, present

NAME = "pivots_in"


def check(layer: LayerShape) -> str | None:
    """Refuse layers whose inputs have no pivots in place."""
    if not layer.rank:
        return "the layer has no low-rank part (rank 0)"
    if layer.kept and layer.axis != "in":
        return "the layer keeps rows (axis 'out')"
    if layer.order is None or layer.order.side != "in":
        return "the order of its inputs is fixed"
    if not layer.order.pivots or layer.order.first:
        return "no pivots were put in place: they need one block of inputs, and partners that keep the same ones"
    return None


def cost(layer: LayerShape) -> Counts:
    """The products, three Slices, the Add and the Concat."""
    first = layer.kept + layer.rank
    products = [(layer.in_features - first, layer.rank), (first, layer.out_features)]
    copied = layer.in_features + layer.rank + (first if layer.kept else 0)
    return Counts(products, nodes=7 if layer.kept else 5, elements=copied)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    shape, width = layer.shape, layer.shape.in_features
    kept, first = shape.kept, shape.kept + shape.rank
    u, v = present(layer.u).astype(np.float64), present(layer.v).astype(np.float64)
    # D, (rank, in - first); by least squares, since factors may hold less than their rank.
    combine = np.linalg.lstsq(v[:, kept:first], v[:, first:], rcond=None)[0]
    hidden = tape.slice(layer.x, kept, first, width=width)
    if first < width:
        others = tape.matmul(tape.slice(layer.x, first, width, width=width), "combine_t", combine)
        hidden = tape.add(others, hidden, shape.rank)
    weight = u @ v[:, kept:first]  # A, (out, rank)
    if kept:
        hidden = tape.concat([hidden, tape.slice(layer.x, 0, kept, width=width)], [shape.rank, kept])
        weight = np.concatenate([weight, layer.dense_weight()[:, :kept]], axis=1)
    return tape.add_bias(tape.matmul(hidden, "second_t", weight))
