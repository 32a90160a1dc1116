"""Pivot neurons: the low-rank part of all others is a combination of `rank` rows of its own.

    x -> MatMul([W_kept ; W_pivots]^T) -> Add(bias) -> z;  z -> Slice(pivots) -> MatMul(C^T) -> Add(bias) -> rest
    y = Concat(z, rest)

With pivot rows P, the rows of `u v` are C times the pivot rows, C = u u_P^-1: rank^2 parameters fewer than the two
factors, exactly, and kept neurons join the first product. The pivots are chosen by the fold pass, which put them
behind the kept neurons, so that the entries of C stay near 1.

References:
    PIFA (ICML 2025), for the idea.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import Array, FactoredNode
from .base import LayerTape, present, stored_by_pivots

NAME = "pivots_out"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers whose outputs have no pivots in place."""
    if not layer.rank:
        return "the layer has no low-rank part (rank 0)"
    if layer.kept and layer.axis != "out":
        return "the layer keeps columns (axis 'in')"
    if layer.order is None or layer.order.side != "out":
        return "the order of its outputs is fixed"
    if not layer.order.pivots or layer.order.first:
        return "no pivots were put in place: they need one block of outputs, and partners that keep the same ones"
    return None


def cost(layer: PlannedLayer) -> Counts:
    """The products, the Slice and the Concat."""
    first = layer.kept + layer.rank
    products = [(layer.in_features, first), (layer.rank, layer.out_features - first)]
    return Counts(products, nodes=4, elements=layer.rank + layer.out_features)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    spec, bias = layer.spec, layer.bias_values
    kept, first = spec.kept, spec.kept + spec.rank
    combine = _combine(layer)
    z = tape.affine(layer.x, "first_t", layer.dense_weight()[:first], None if bias is None else bias[:first])
    # The pivots carry their bias already: what C makes of it is taken off again.
    rest_bias = None if bias is None else bias[first:] - combine @ bias[kept:first]
    pivots = tape.slice(z, kept, first, width=first)
    rest = tape.affine(pivots, "combine_t", combine, rest_bias)
    return tape.concat([z, rest], [first, spec.out_features - first])


def _combine(layer: FactoredNode) -> Array:
    """Return C, (out - first, rank): as it is stored, where the layer is stored by the pivots in place."""
    spec = layer.spec
    kept, first = spec.kept, spec.kept + spec.rank
    if stored_by_pivots(layer, "out", kept):
        others = np.zeros((0, spec.rank)) if layer.u is None else layer.u.astype(np.float64)
        return others[kept:]  # behind the rows of the kept outputs
    u = present(layer.whole_u).astype(np.float64)
    # By least squares, since factors may hold less than their rank.
    return np.asarray(np.linalg.lstsq(u[kept:first].T, u[first:].T, rcond=None)[0].T)
