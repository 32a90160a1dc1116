"""The layer of which nothing was kept: its output does not depend on its input.

    x -> Shape(all but the last axis) -> Concat(out) -> Expand(bias, or zeros)

The layer had rank 0 and no kept group.
"""

from __future__ import annotations

import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape

NAME = "constant"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers that have weights."""
    if layer.rank or layer.kept:
        return f"the layer has weights (rank {layer.rank}, kept {layer.kept})"
    return None


def cost(layer: PlannedLayer) -> Counts:
    """Three nodes that write the output once."""
    return Counts(nodes=3, elements=layer.out_features)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    bias = layer.bias
    return tape.broadcast(bias if bias is not None else tape.zeros(layer.spec.out_features), layer.spec.out_features)
