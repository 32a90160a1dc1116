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
from ..graph.layer import PlannedLayer
from ..graph.node import Array, FactoredNode
from .base import LayerTape, present, stored_by_pivots

NAME = "pivots_in"


def check(layer: PlannedLayer) -> str | None:
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


def cost(layer: PlannedLayer) -> Counts:
    """The products, three Slices, the Add and the Concat."""
    first = layer.kept + layer.rank
    products = [(layer.in_features - first, layer.rank), (first, layer.out_features)]
    copied = layer.in_features + layer.rank + (first if layer.kept else 0)
    return Counts(products, nodes=7 if layer.kept else 5, elements=copied)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    spec, width = layer.spec, layer.spec.in_features
    kept, first = spec.kept, spec.kept + spec.rank
    weight, combine = _parts(layer)
    hidden = tape.slice(layer.x, kept, first, width=width)
    if first < width:
        others = tape.matmul(tape.slice(layer.x, first, width, width=width), "combine_t", combine)
        hidden = tape.add(others, hidden, spec.rank)
    if kept:
        hidden = tape.concat([hidden, tape.slice(layer.x, 0, kept, width=width)], [spec.rank, kept])
        weight = np.concatenate([weight, layer.dense_weight()[:, :kept]], axis=1)
    return tape.add_bias(tape.matmul(hidden, "second_t", weight))


def _parts(layer: FactoredNode) -> tuple[Array, Array]:
    """Return A, (out, rank), and D, (rank, in - first): as they are stored, where the layer is stored by the pivots."""
    spec, u = layer.spec, present(layer.whole_u).astype(np.float64)
    kept, first = spec.kept, spec.kept + spec.rank
    if stored_by_pivots(layer, "in", kept):
        others = np.zeros((spec.rank, 0)) if layer.v is None else layer.v.astype(np.float64)
        return u, others[:, kept:]  # behind the columns of the kept inputs
    v = present(layer.whole_v).astype(np.float64)
    # By least squares, since factors may hold less than their rank.
    return u @ v[:, kept:first], np.linalg.lstsq(v[:, kept:first], v[:, first:], rcond=None)[0]
