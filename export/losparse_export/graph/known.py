"""Features that are the same number whatever comes in: what a layer writes of a neuron of which it keeps nothing.

They are followed through a region as its nodes go: a constant stays one through anything elementwise, through attention
- an average of one number is that number - and a product with a constant zero is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .node import Array, Mask
from .region import BINARY, Region
from .side import Side


@dataclass(frozen=True)
class Known:
    """What is known of one value's features.

    Attributes:
        mask: which of them are constant; (features,).
        numbers: what they are, anything where they are not; (features,), in double precision.
    """

    mask: Mask
    numbers: Array


def known_features(region: Region, sides: Sequence[Side], places: Mapping[ir.Node, int]) -> dict[ir.Value, Known]:
    """Return what is known of the values of a region.

    Args:
        region: that is not blocked.
        sides: of the region.
        places: of every node in the graph's order.
    """
    known = {side.node.outputs[0]: Known(~side.live, side.bias) for side in sides if side.writes}
    for node in sorted(region.nodes, key=lambda node: places[node]):
        if node.outputs[0] in region.values:
            known[node.outputs[0]] = _through(node, known, region.width)
    return known


def _through(node: ir.Node, known: Mapping[ir.Value, Known], width: int) -> Known:
    if node.op_type == "Attention":
        return _of(node.inputs[2], known, width)
    if node.op_type == "Reshape":
        return _of(node.inputs[0], known, width)
    operands = [_of(value, known, width) for value in node.inputs[: 2 if node.op_type in BINARY else 1]]
    mask = np.logical_and.reduce([operand.mask for operand in operands])
    numbers = np.zeros(width)
    if mask.any():
        numbers[mask] = _evaluated(node, [operand.numbers[mask] for operand in operands])
    if node.op_type == "Mul":
        for operand in operands:
            zero = operand.mask & (operand.numbers == 0)
            mask, numbers = mask | zero, np.where(zero, 0.0, numbers)
    return Known(mask, numbers)


def _of(value: ir.Value | None, known: Mapping[ir.Value, Known], width: int) -> Known:
    assert value is not None, "what regions go through has its inputs"
    if value.const_value is not None:
        # One number, or one for every feature; axes of one in front mean nothing.
        numbers = value.const_value.numpy().astype(np.float64).reshape(-1)
        return Known(np.ones(width, bool), np.broadcast_to(numbers, (width,)))
    return known[value]


def _evaluated(node: ir.Node, operands: Sequence[Array]) -> Array:
    """Compute an elementwise node as ONNX defines it."""
    graph, x = node.graph, node.inputs[0]
    assert isinstance(graph, ir.Graph) and x is not None, "nodes of a region are in a graph, and have an input"
    proto = ir.to_proto(node)
    feeds = {f"x{place}": numbers.astype(_dtype(x).numpy()) for place, numbers in enumerate(operands)}
    del proto.input[:], proto.output[:]
    proto.input.extend(feeds)
    proto.output.append("y")
    # Typed, since some operators are defined by others whose form depends on the type.
    inputs = [helper.make_tensor_value_info(name, _dtype(x).value, [None]) for name in feeds]
    outputs = [helper.make_tensor_value_info("y", _dtype(node.outputs[0]).value, [None])]
    opsets = [helper.make_opsetid("", graph.opset_imports[""])]
    model = helper.make_model(helper.make_graph([proto], "constants", inputs, outputs), opset_imports=opsets)
    results = ReferenceEvaluator(model).run(["y"], feeds)
    assert isinstance(results, list), "a model gives its outputs in order"
    return np.asarray(results[0], dtype=np.float64)


def _dtype(value: ir.Value) -> ir.DataType:
    return ir.DataType.FLOAT if value.dtype is None else value.dtype
