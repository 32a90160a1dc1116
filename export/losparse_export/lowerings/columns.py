"""Kept input features picked by a Gather and joined with the low-rank part: no placing of the output.

    x -> MatMul(v^T)  --+-> Concat -> MatMul([u | columns]^T) -> Add(bias)
    x -> Gather(kept) --+

One product of inner width rank + kept, rather than two products and an Add: the Concat writes rank + kept floats a
token, the Add would write and read all outputs, and the wider product runs at a better rate. The Gather stays on the
last axis: bringing all input features to the front would cost more than picking the kept ones singly.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape, low_rank_products, present

NAME = "columns"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers without kept columns."""
    if not layer.kept:
        return "the layer has no sparse part (kept 0)"
    if layer.axis != "in":
        return "the layer keeps rows (axis 'out'): there are no columns to pick"
    return None


def cost(layer: PlannedLayer) -> Counts:
    """The products, picking the kept features, and joining the two parts."""
    return Counts(
        [(layer.rank + layer.kept, layer.out_features), *low_rank_products(layer)[:1]],
        nodes=4 if layer.rank else 2,
        elements=layer.rank + layer.kept if layer.rank else 0,
        gathered=layer.kept,
    )


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    spec, weight = layer.spec, present(layer.sparse)
    picked = tape.pick(layer.x, "columns", present(layer.kept))
    if spec.rank:
        hidden = tape.matmul(layer.x, "v_t", present(layer.whole_v))
        picked = tape.concat([hidden, picked], [spec.rank, spec.kept])
        weight = np.concatenate([present(layer.whole_u), weight], axis=1)
    return tape.add_bias(tape.matmul(picked, "second_t", weight))
