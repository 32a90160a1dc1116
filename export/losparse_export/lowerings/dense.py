"""The merged weight: one product, for layers that factoring does not make cheaper.

    x -> MatMul((u v + sparse)^T) -> Add(bias)

It is exact up to the rounding of the merged weight.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..layer import FactoredNode, LayerShape
from .base import Cost, LayerTape, make_cost, present

NAME = "dense"


def check(layer: LayerShape) -> str | None:
    """Refuse nothing: every layer has a dense weight."""
    return None


def cost(layer: LayerShape, tokens: int) -> Cost:
    """One product of full size."""
    return make_cost(layer.dense_parameters, nodes=1, tokens=tokens)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    shape = layer.shape
    # Merged in double precision: the merged weight is then the nearest one to the product of the stored factors.
    weight = np.zeros((shape.out_features, shape.in_features))
    if shape.rank:
        weight += present(layer.u).astype(np.float64) @ present(layer.v).astype(np.float64)
    if shape.kept:
        where = (present(layer.kept), slice(None)) if shape.axis == "out" else (slice(None), present(layer.kept))
        weight[where] += present(layer.sparse)
    return tape.add_bias(tape.matmul(layer.x, "weight_t", weight))
