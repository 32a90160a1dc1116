"""The layer of which nothing was kept: its output does not depend on its input.

    x -> Shape(all but the last axis) -> Concat(out) -> Expand(bias, or zeros)

The layer had rank 0 and no kept group.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..layer import FactoredNode, LayerShape
from .base import Cost, LayerTape, make_cost

NAME = "constant"


def check(layer: LayerShape) -> str | None:
    """Refuse layers that have weights."""
    if layer.rank or layer.kept:
        return f"the layer has weights (rank {layer.rank}, kept {layer.kept})"
    return None


def cost(layer: LayerShape, tokens: int) -> Cost:
    """Three nodes that write the output once."""
    return make_cost(0, nodes=3, tokens=tokens, elements=layer.out_features)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    out = layer.shape.out_features
    value = layer.bias or tape.constant("zeros", np.zeros(out, layer.dtype))
    leading = tape.op("Shape", layer.x, start=0, end=-1)
    shape = tape.op("Concat", leading, tape.constant("out_features", np.array([out], np.int64)), axis=0)
    return tape.op("Expand", value, shape)
