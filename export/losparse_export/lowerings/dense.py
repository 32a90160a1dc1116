"""The merged weight: one product, for layers that factoring does not make cheaper.

    x -> MatMul((u v + sparse)^T) -> Add(bias)

It is exact up to the rounding of the merged weight.
"""

from __future__ import annotations

import onnx_ir as ir

from ..graph.node import FactoredNode, LayerShape
from .base import Cost, LayerTape, make_cost

NAME = "dense"


def check(layer: LayerShape) -> str | None:
    """Refuse nothing: every layer has a dense weight."""
    return None


def cost(layer: LayerShape, tokens: int, precision: str = "fp32") -> Cost:
    """One product of full size."""
    return make_cost([(layer.in_features, layer.out_features)], nodes=1, tokens=tokens, precision=precision)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    return tape.add_bias(tape.matmul(layer.x, "weight_t", layer.dense_weight()))
