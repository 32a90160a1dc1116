"""Two products and nothing else: the sparse part rides along in the low-rank part, placed by a 0/1 matrix E.

    axis="out"   x -> MatMul([v ; rows]^T) -> MatMul([u | E^T]^T)    -> Add(bias)     E (kept, out)
    axis="in"    x -> MatMul([v ; E]^T)    -> MatMul([u | columns]^T) -> Add(bias)    E (kept, in)

Exact: a product with E copies numbers. It costs kept x out (or kept x in) multiply-adds more than the layer has
parameters, and saves every node that would move data. Best for few kept groups and few tokens.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import Array, FactoredNode
from .base import LayerTape, present, selector_matrix

NAME = "selector"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers without a sparse part: there is nothing to select."""
    return None if layer.kept else "the layer has no sparse part (kept 0)"


def cost(layer: PlannedLayer) -> Counts:
    """Two products of inner width rank + kept, whatever the axis."""
    width = layer.rank + layer.kept
    return Counts([(layer.in_features, width), (width, layer.out_features)], nodes=2)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    spec, kept, sparse = layer.spec, present(layer.kept), present(layer.sparse)
    if spec.axis == "out":
        first, second = sparse, selector_matrix(kept, spec.out_features).T
    else:
        first, second = selector_matrix(kept, spec.in_features), sparse
    hidden = tape.matmul(layer.x, "first_t", _join(layer.whole_v, first, axis=0))
    return tape.add_bias(tape.matmul(hidden, "second_t", _join(layer.whole_u, second, axis=1)))


def _join(factor: Array | None, other: Array, axis: int) -> Array:
    return other if factor is None else np.concatenate([factor, other], axis=axis)
