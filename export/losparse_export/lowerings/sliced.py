"""Kept input features taken by a Slice and joined with the low-rank part.

    x -> MatMul(v^T)  --+-> Concat -> MatMul([u | columns]^T) -> Add(bias)
    x -> Slice(kept) ---+

`columns` without its Gather: for layers whose inputs the fold pass put in order, in one block or the same way in every
head.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..costs import Counts
from ..graph.layer import PlannedLayer
from ..graph.node import FactoredNode
from .base import LayerTape, low_rank_products, present

NAME = "sliced"


def check(layer: PlannedLayer) -> str | None:
    """Refuse layers whose kept columns are not in one place."""
    if not layer.kept:
        return "the layer has no sparse part (kept 0)"
    if layer.axis != "in":
        return "the layer keeps rows (axis 'out'): there are no columns to slice"
    if layer.order is None or layer.order.side != "in":
        return "the order of its inputs is fixed, so its kept columns lie anywhere"
    if not layer.order.blocks:
        return "its kept columns differ from head to head, so they lie in no regular way"
    return None


def cost(layer: PlannedLayer) -> Counts:
    """The products, and two copies."""
    copied = layer.kept + (layer.rank + layer.kept if layer.rank else 0)
    products = [(layer.rank + layer.kept, layer.out_features), *low_rank_products(layer)[:1]]
    return Counts(products, nodes=4 if layer.rank else 2, elements=copied)


def emit(layer: FactoredNode, tape: LayerTape) -> ir.Value:
    """Write the form; see the module."""
    spec, order = layer.spec, layer.spec.order
    assert order is not None, "check() saw the order"
    stop = order.first + spec.kept // order.blocks
    picked = tape.slice(layer.x, order.first, stop, blocks=order.blocks, width=spec.in_features)
    weight = present(layer.sparse)
    if spec.rank:
        hidden = tape.matmul(layer.x, "v_t", present(layer.whole_v))
        picked = tape.concat([hidden, picked], [spec.rank, spec.kept])
        weight = np.concatenate([present(layer.whole_u), weight], axis=1)
    return tape.add_bias(tape.matmul(picked, "second_t", weight))
