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
from ..graph.node import FactoredNode, LayerShape
from .base import LayerTape, present

NAME = "pivots_out"


def check(layer: LayerShape) -> str | None:
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


def cost(layer: LayerShape) -> Counts:
    """The products, the Slice and the Concat."""
    first = layer.kept + layer.rank
    products = [(layer.in_features, first), (layer.rank, layer.out_features - first)]
    return Counts(products, nodes=4, elements=layer.rank + layer.out_features)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    shape, bias = layer.shape, layer.bias_values
    kept, first = shape.kept, shape.kept + shape.rank
    u = present(layer.u).astype(np.float64)
    # C, (out - first, rank); by least squares, since factors may hold less than their rank.
    combine = np.linalg.lstsq(u[kept:first].T, u[first:].T, rcond=None)[0].T
    z = tape.affine(layer.x, "first_t", layer.dense_weight()[:first], None if bias is None else bias[:first])
    # The pivots carry their bias already: what C makes of it is taken off again.
    rest_bias = None if bias is None else bias[first:] - combine @ bias[kept:first]
    pivots = tape.slice(z, kept, first, width=first)
    rest = tape.affine(pivots, "combine_t", combine, rest_bias)
    return tape.concat([z, rest], [first, shape.out_features - first])
