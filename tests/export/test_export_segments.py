"""Concat and Slices that cancel: where they do, where they stay, and the same numbers before and after.

Elementwise nodes and copies do the same arithmetic on the same numbers, so results are equal to the last bit; products
that follow are not rewritten here. Tolerance 1e-7 all the same: kernels may take other paths for other widths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from losparse_export import Call
from losparse_export.passes import SplitSegmentsPass, fold_model

from .blocks import Blocks, assert_equal_outputs, dense_outputs, feed_forward, feeds_for, finish_model, lowered_to
from .builders import run_graph

ATOL = 1e-7


def parts(b: Blocks, *widths: int, names: str = "abc") -> ir.Value:
    """Join inputs of the given widths."""
    values = [b.input(width, name=name) for width, name in zip(widths, names, strict=False)]
    return b.op("Concat", *values, width=sum(widths), axis=-1)


def take(b: Blocks, x: ir.Value, start: int, stop: int, axis: int = -1) -> ir.Value:
    bounds = [b.constant(f"val_{len(b.weights)}", np.array([number])) for number in (start, stop, axis)]
    return b.op("Slice", x, *bounds, width=stop - start)


def outputs(b: Blocks, *values: ir.Value) -> ir.Model:
    """Give every part to a node of its own, so that the outputs of the model are not the Slices."""
    return b.model(*(b.op("Neg", value) for value in values))


def activation(b: Blocks) -> ir.Model:
    y = b.op("Gelu", parts(b, 3, 5))
    return outputs(b, take(b, y, 0, 3), take(b, y, 3, 8))


def gate(b: Blocks) -> ir.Model:
    """Two joined tensors with the same boundary, a vector with a number for each feature, and a scalar."""
    y = b.op("Mul", b.op("Gelu", parts(b, 3, 5)), parts(b, 3, 5, names="de"))
    y = b.op("Div", b.op("Add", y, b.constant("shift.weight", np.arange(8.0))), b.scalar(3.0))
    return outputs(b, take(b, y, 0, 3), take(b, y, 3, 8))


def vector_of_two_axes(b: Blocks) -> ir.Model:
    y = b.op("Sub", b.constant("shift.weight", np.arange(8.0)[None]), parts(b, 3, 5))
    return outputs(b, take(b, y, 0, 3), take(b, y, 3, 8))


def three_parts(b: Blocks) -> ir.Model:
    y = b.op("Relu", parts(b, 3, 4, 1))
    return outputs(b, take(b, y, 3, 7), take(b, y, 7, 8), take(b, y, 0, 3))


def one_part_twice(b: Blocks) -> ir.Model:
    """The other part is read by nobody: its activation goes."""
    y = b.op("Tanh", parts(b, 3, 5))
    return outputs(b, take(b, y, 0, 3), take(b, y, 0, 3))


def directly(b: Blocks) -> ir.Model:
    y = parts(b, 3, 5)
    return outputs(b, take(b, y, 3, 8), take(b, y, 0, 3))


FIRES: list[tuple[Callable[[Blocks], ir.Model], list[str]]] = [
    (activation, ["Gelu", "Gelu"]),
    (gate, ["Gelu", "Mul", "Add", "Div"] * 2),
    (vector_of_two_axes, ["Sub", "Sub"]),
    (three_parts, ["Relu"] * 3),
    (one_part_twice, ["Tanh"]),
    (directly, []),
]


@pytest.mark.parametrize(("build", "expected"), FIRES)
def test_fires(build, expected):
    model = build(Blocks())
    feeds = feeds_for(model)
    before = run_graph(model, feeds)
    assert SplitSegmentsPass()(model).modified
    assert sorted(node.op_type for node in model.graph if node.op_type != "Neg") == sorted(expected)
    assert_equal_outputs(model, feeds, before, ATOL)
    for value in (node.outputs[0] for node in model.graph):  # later passes read the widths
        assert isinstance(value.shape[-1], int)


def other_boundaries(b: Blocks) -> ir.Model:
    y = b.op("Mul", parts(b, 3, 5), parts(b, 4, 4, names="de"))
    return outputs(b, take(b, y, 0, 3), take(b, y, 3, 8))


def across(b: Blocks) -> ir.Model:
    y = b.op("Gelu", parts(b, 3, 5))
    return outputs(b, take(b, y, 0, 3), take(b, y, 2, 8))


def read_whole(b: Blocks) -> ir.Model:
    y = b.op("Gelu", parts(b, 3, 5))
    weight = b.constant("down.weight_t", b.random.normal(size=(8, 2)))
    return outputs(b, take(b, y, 0, 3), b.op("MatMul", y, weight, width=2))


def is_output(b: Blocks) -> ir.Model:
    y = b.op("Gelu", parts(b, 3, 5))
    return b.model(y, b.op("Neg", take(b, y, 0, 3)))


def written_whole(b: Blocks) -> ir.Model:
    y = b.op("Mul", parts(b, 3, 5), b.input(8, name="z"))
    return outputs(b, take(b, y, 0, 3), take(b, y, 3, 8))


def reshaped(b: Blocks) -> ir.Model:
    y = b.op("Reshape", parts(b, 3, 5), b.constant("val_0", np.array([-1, 8])))
    return outputs(b, take(b, y, 0, 3), take(b, y, 3, 8))


def normalised(b: Blocks) -> ir.Model:
    y = b.norm(parts(b, 3, 5), "norm")
    return outputs(b, take(b, y, 0, 3), take(b, y, 3, 8))


def every_second(b: Blocks) -> ir.Model:
    y = b.op("Gelu", parts(b, 4, 4))
    bounds = [b.constant(f"val_{number}", np.array([number])) for number in (0, 4, -1, 2)]
    return outputs(b, b.op("Slice", y, *bounds, width=2))


def some_tokens(b: Blocks) -> ir.Model:
    """The bounds of a part, but on the other axis."""
    y = b.op("Gelu", parts(b, 3, 5))
    return outputs(b, take(b, y, 0, 3, axis=0))


def more_tokens(b: Blocks) -> ir.Model:
    y = b.op("Concat", b.input(8, name="a"), b.input(8, name="b"), axis=0)
    return outputs(b, take(b, y, 0, 3))


REFUSES = [
    other_boundaries,
    across,
    read_whole,
    is_output,
    written_whole,
    reshaped,
    normalised,
    every_second,
    some_tokens,
    more_tokens,
]


@pytest.mark.parametrize("build", REFUSES)
def test_refuses(build):
    model = build(Blocks())
    feeds, nodes = feeds_for(model), tuple(model.graph)
    before = run_graph(model, feeds)
    assert not SplitSegmentsPass()(model).modified
    assert tuple(model.graph) == nodes
    assert_equal_outputs(model, feeds, before, 0.0)


def test_vectors_are_split_and_named_after_the_whole():
    model = SplitSegmentsPass()(gate(Blocks())).model
    stored = model.graph.initializers
    assert stored["shift.weight.0_3"].const_value.numpy().tolist() == [0, 1, 2]
    assert stored["shift.weight.3_8"].const_value.numpy().tolist() == [3, 4, 5, 6, 7]


def test_shapes_of_split_vectors_are_those_of_their_numbers():
    model = SplitSegmentsPass()(vector_of_two_axes(Blocks())).model
    for name in ("shift.weight.0_3", "shift.weight.3_8"):
        value = model.graph.initializers[name]
        assert list(value.shape) == list(value.const_value.shape)


def test_slices_that_are_outputs_keep_their_names():
    b = Blocks()
    y = b.op("Gelu", parts(b, 3, 5))
    model = b.model(take(b, y, 0, 3), take(b, y, 3, 8))
    SplitSegmentsPass()(model)
    assert [value.name for value in model.graph.outputs] == ["y0", "y1"]


@pytest.mark.parametrize(("opset", "between"), [(23, ["Gelu"]), (18, ["Div", "Erf", "Add", "Mul", "Mul"])])
def test_layers_that_keep_the_same_neurons(opset: int, between: list[str]):
    """Of `folded` before and `split` behind an activation nothing is left that only moves."""
    model = feed_forward([1, 4, 6], [1, 4, 6], opset=opset)
    feeds = feeds_for(model)
    expected: Any = dense_outputs(model, feeds)
    fold_model(model)
    lowered = lowered_to(model, {"up": "folded", "down": "split"})
    finish_model(lowered, Call(length=4096))
    moving = {"Concat", "Slice", "Gather", "Transpose", "Pad"}
    found = [node.op_type for node in lowered.graph if node.op_type not in ("MatMul", "Gemm", "Split")]
    assert not moving & set(found) and sorted(found) == sorted(between * 2)
    assert_equal_outputs(lowered, feeds, expected, 1e-5)  # as in test_export_fold: sums in another order
