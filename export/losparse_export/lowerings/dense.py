"""The merged weight: one product, for layers that factoring does not make cheaper.

    x -> MatMul((u v + sparse)^T) -> Add(bias)

It is exact up to the rounding of the merged weight.
"""

from __future__ import annotations

import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape

NAME = "dense"


def check(layer: PlannedLayer) -> str | None:
    """Refuse nothing: every layer has a dense weight."""
    return None


def cost(layer: PlannedLayer) -> Counts:
    """One product of full size."""
    return Counts([(layer.in_features, layer.out_features)], nodes=1)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    return tape.add_bias(tape.matmul(layer.x, "weight_t", layer.dense_weight()))
