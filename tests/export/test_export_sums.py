"""Sums that become chains of Gemm: which do, where a bias moves to, and the same numbers before and after.

Tolerance 1e-5, scaled with outputs above 1: sums of at most 8 terms of magnitude 1 in another order, and a
LayerNormalization behind them. A bias in the wrong place is off by 0.1 and more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from losparse_export.graph.marks import SHIFTED, mark_converted, marks_of, scope_of
from losparse_export.passes import SumsPass, fold_model

from .blocks import Blocks, assert_equal_outputs, dense_outputs, feeds_for, lowered_to, make_dense
from .builders import make_layer, run_graph

ATOL = 1e-5


def rewrite(model: ir.Model) -> bool:
    """Run the pass, compare before and after, and say whether it changed something."""
    feeds = feeds_for(model)
    before = run_graph(model, feeds)
    result = SumsPass()(model)
    common.RemoveUnusedNodesPass()(model)
    assert_equal_outputs(model, feeds, before, ATOL)
    return result.modified


def kinds(model: ir.Model) -> list[str]:
    """Return the operators, without those that only stand behind what is looked at."""
    return [node.op_type for node in model.graph if node.op_type not in ("Neg", "Relu")]


def product(b: Blocks, x: ir.Value, name: str, out: int = 8, *, bias: bool = False) -> ir.Value:
    """Add a dense layer."""
    return b.layer(x, make_dense(out, int(x.shape[-1]), bias=bias), name)


def behind(b: Blocks, x: ir.Value) -> ir.Model:
    """End with a node that reads the sum: the sum is no output of the model."""
    return b.model(b.op("Neg", x))


def plain_bias(b: Blocks) -> ir.Model:
    return behind(b, product(b, b.input(6), "a", bias=True))


def bias_first(b: Blocks) -> ir.Model:
    y = product(b, b.input(6), "a")
    return behind(b, b.op("Add", b.constant("a.bias", np.arange(8.0)), y))


def two_products(b: Blocks) -> ir.Model:
    x = b.input(6)
    return behind(b, b.op("Add", product(b, x, "a"), product(b, b.input(4, name="z"), "b", bias=True)))


def three_products_and_two_biases(b: Blocks) -> ir.Model:
    x = b.input(6)
    y = b.op("Add", product(b, x, "a", bias=True), product(b, x, "b", bias=True))
    return behind(b, b.op("Add", product(b, x, "c"), y))


def residual_without_bias(b: Blocks) -> ir.Model:
    return behind(b, b.op("Add", product(b, b.input(6), "a"), b.input(8, name="z")))


def residual_that_is_an_input(b: Blocks) -> ir.Model:
    return behind(b, b.op("Add", product(b, b.input(6), "a", bias=True), b.input(8, name="z")))


def two_streams(b: Blocks) -> ir.Model:
    y = b.op("Add", product(b, b.input(6), "a", bias=True), b.input(8, name="z"))
    return behind(b, b.op("Add", y, b.input(8, name="w")))


def read_twice(b: Blocks) -> ir.Model:
    y = product(b, b.input(6), "a")
    return b.model(b.op("Neg", b.op("Add", y, b.constant("a.bias", np.arange(8.0)))), b.op("Relu", y))


def sum_read_twice(b: Blocks) -> ir.Model:
    """The inner sum is needed by itself: one Gemm each."""
    x = b.input(6)
    y = product(b, x, "a", bias=True)
    return b.model(b.op("Neg", b.op("Add", product(b, x, "b"), y)), b.op("Relu", y))


def number(b: Blocks) -> ir.Model:
    """One number for all features is no bias vector, and is added like a stream."""
    return behind(b, b.op("Add", product(b, b.input(6), "a"), b.scalar(2.0)))


FIRES: list[tuple[Callable[[Blocks], ir.Model], list[str]]] = [
    (plain_bias, ["Gemm"]),
    (bias_first, ["Gemm"]),
    (two_products, ["Gemm", "Gemm"]),
    (three_products_and_two_biases, ["Gemm", "Gemm", "Gemm"]),
    (residual_without_bias, ["Gemm"]),
    (residual_that_is_an_input, ["Gemm", "Add"]),
    (two_streams, ["Gemm", "Add", "Add"]),
    (sum_read_twice, ["Gemm", "Gemm"]),
    (number, ["Gemm"]),
]


@pytest.mark.parametrize(("build", "expected"), FIRES)
def test_fires(build, expected):
    torch.manual_seed(0)
    model = build(Blocks())
    assert rewrite(model) and kinds(model) == expected


def no_product(b: Blocks) -> ir.Model:
    return behind(b, b.op("Add", b.input(8), b.constant("a.bias", np.arange(8.0))))


def three_axes(b: Blocks) -> ir.Model:
    return behind(b, product(b, b.input(6, axes=3), "a", bias=True))


def two_tensors(b: Blocks) -> ir.Model:
    y = b.op("MatMul", b.input(5), b.input(8, name="z"), width=8)
    return behind(b, b.op("Add", y, b.constant("a.bias", np.arange(8.0))))


@pytest.mark.parametrize("build", [no_product, three_axes, two_tensors, read_twice])
def test_leaves_alone(build):
    torch.manual_seed(0)
    model = build(Blocks())
    nodes = tuple(model.graph)
    assert not rewrite(model) and tuple(model.graph) == nodes


def test_biases_are_added_in_one_vector():
    torch.manual_seed(0)
    model = three_products_and_two_biases(Blocks())
    wanted = sum(model.graph.initializers[f"{name}.bias"].const_value.numpy() for name in "ab")
    rewrite(model)
    (last,) = [node for node in model.graph if node.op_type == "Gemm" and node.inputs[2].const_value is not None]
    np.testing.assert_allclose(last.inputs[2].const_value.numpy(), wanted, rtol=1e-6)


def stream(b: Blocks, *, reader: Callable[[Blocks, ir.Value], ir.Value], width: int = 8) -> ir.Model:
    """LN -> x; reader(x) -> Relu -> product with bias, and x: the residual block."""
    x = b.norm(b.input(width), "norm")
    y = b.op("Relu", reader(b, x))
    return behind(b, b.op("Add", b.layer(y, make_dense(width, int(y.shape[-1])), "down"), x))


def with_bias(b: Blocks, x: ir.Value) -> Any:
    return product(b, x, "up", 6, bias=True)


def without_bias(b: Blocks, x: ir.Value) -> Any:
    return product(b, x, "up", 6)


def two_readers(b: Blocks, x: ir.Value) -> Any:
    return b.op("Mul", b.op("Relu", product(b, x, "up", 6)), product(b, x, "gate", 6, bias=True))


def low_rank(b: Blocks, x: ir.Value) -> Any:
    """Two thin products: the shift is taken off between them."""
    return product(b, product(b, x, "v", 2), "up", 6, bias=True)


def kept_and_low_rank(b: Blocks, x: ir.Value) -> Any:
    return b.op("Add", product(b, x, "rows", 6), product(b, product(b, x, "v", 2), "up", 6, bias=True))


@pytest.mark.parametrize("reader", [with_bias, without_bias, two_readers, low_rank, kept_and_low_rank])
def test_a_bias_moves_into_the_normalisation(reader):
    torch.manual_seed(0)
    model = stream(Blocks(), reader=reader)
    old, bias = (model.graph.initializers[name].const_value.numpy() for name in ("norm.bias", "down.bias"))
    assert rewrite(model)
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    np.testing.assert_allclose(norm.inputs[2].const_value.numpy(), old + bias, rtol=1e-6)
    assert scope_of(norm) == "norm" and marks_of(norm).kinds == (SHIFTED,)
    last = model.graph.outputs[0].producer().inputs[0].producer()
    assert last.op_type == "Gemm" and last.inputs[2] is norm.outputs[0]


def test_the_shift_is_taken_off_by_hand():
    """Bias (1, 2); the reader's weight gives (x0 + 3 x1), so it starts from 10 - (1 + 6) = 3."""
    b = Blocks()
    x = b.norm(b.input(2), "norm")
    y = b.op("MatMul", x, b.constant("up.weight_t", [[1.0], [3.0]]), width=1)
    y = b.op("Add", y, b.constant("up.bias", [10.0]))
    y = b.op("MatMul", b.op("Relu", y), b.constant("down.weight_t", [[1.0, 1.0]]), width=2)
    model = behind(b, b.op("Add", b.op("Add", y, b.constant("down.bias", [1.0, 2.0])), x))
    rewrite(model)
    first = next(node for node in model.graph if node.op_type == "Gemm")
    assert first.inputs[2].const_value.numpy().tolist() == [3.0]


def test_a_normalisation_without_a_shift_gets_one():
    torch.manual_seed(0)
    b = Blocks()
    x = b.op("LayerNormalization", b.input(8), b.constant("norm.weight", np.ones(8)), axis=-1, scope="norm")
    y = b.op("Relu", product(b, x, "up", 6, bias=True))
    model = behind(b, b.op("Add", product(b, y, "down", bias=True), x))
    assert rewrite(model)
    assert kinds(model) == ["LayerNormalization", "Gemm", "Gemm"]


def softmax(b: Blocks, x: ir.Value) -> Any:
    return b.op("Softmax", x, axis=-1)


def also_elementwise(b: Blocks, x: ir.Value) -> Any:
    return b.op("Mul", product(b, x, "up", 8), b.op("Tanh", x))


def second_sum(b: Blocks, x: ir.Value) -> Any:
    return b.op("Add", product(b, b.op("Sigmoid", x), "up", 8), x)


@pytest.mark.parametrize("reader", [softmax, also_elementwise, second_sum])
def test_a_stream_that_something_else_reads_keeps_its_shift(reader):
    torch.manual_seed(0)
    model = stream(Blocks(), reader=reader)
    assert rewrite(model)
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    assert norm.inputs[2].name == "norm.bias" and scope_of(norm) == "norm" and not marks_of(norm).kinds
    last = model.graph.outputs[0].producer().inputs[0].producer()
    assert last.op_type == "Add" and last.inputs[0].producer().inputs[2].name == "down.bias"


def test_a_stream_that_is_an_output_keeps_its_shift():
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.input(8), "norm")
    y = b.op("Add", product(b, b.op("Relu", product(b, x, "up", 6)), "down", bias=True), x)
    model = b.model(b.op("Neg", y), x)
    assert rewrite(model)
    assert model.graph.outputs[1].producer().inputs[2].name == "norm.bias"


def mark(model: ir.Model, *names: str) -> None:
    for node in model.graph:
        if node.op_type == "MatMul" and scope_of(node) in names:
            mark_converted(node, "int8")


@pytest.mark.parametrize("reader", [without_bias, two_readers])
def test_the_sum_that_takes_the_shift_off_a_marked_product_is_not_marked(reader):
    torch.manual_seed(0)
    model = stream(Blocks(), reader=reader)
    mark(model, "up")  # the writer stays fp32, so its bias moves into the normalisation
    assert rewrite(model)
    assert any(node.op_type == "Add" for node in model.graph)
    assert {node.op_type for node in model.graph if marks_of(node).converted} == {"MatMul"}


def test_a_product_of_another_precision_keeps_its_bias_behind_it():
    torch.manual_seed(0)
    model = plain_bias(Blocks())
    mark(model, "a")
    nodes = tuple(model.graph)
    assert not rewrite(model) and tuple(model.graph) == nodes


@pytest.mark.parametrize(("marked", "expected"), [("a", ["MatMul", "Add", "Gemm"]), ("b", ["MatMul", "Add", "Gemm"])])
def test_products_of_two_precisions(marked, expected):
    """The bias stands behind the one to be quantised, and the other one adds its product to that."""
    torch.manual_seed(0)
    model = two_products(Blocks())
    mark(model, marked)
    assert rewrite(model) and sorted(kinds(model)) == sorted(expected)
    (adder,) = [node for node in model.graph if node.op_type == "Add"]
    assert marks_of(adder.inputs[0].producer()).converted and adder.inputs[1].name == "b.bias"


def test_outputs_of_the_model_keep_their_names():
    torch.manual_seed(0)
    b = Blocks()
    model = b.model(product(b, b.input(6), "a", bias=True))
    assert rewrite(model) and [value.name for value in model.graph.outputs] == ["y0"]


@pytest.mark.parametrize("form", ["dense", "selector", "columns", "sliced", "split"])
def test_every_form_of_the_last_layer_adds_the_stream_for_nothing(form):
    """Whatever a layer's last product reads, it is a Gemm that starts from the residual stream."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.input(8), "norm")
    kept = [0, 2]
    y = b.op("Relu", b.layer(x, make_layer(6, 8, rank=2, kept=kept), "up"))
    y = b.layer(y, make_layer(8, 6, rank=2, kept=kept, axis="in"), "down")
    model = behind(b, b.op("Add", y, x))
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    fold_model(model)
    lowered = lowered_to(model, {"up": "dense", "down": form})
    SumsPass()(lowered)
    assert_equal_outputs(lowered, feeds, expected, ATOL)
    assert "Add" not in kinds(lowered)


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_the_stream_itself(bias):
    """x + layer(x), without an activation between: the product reads the stream whose shift changes."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.input(8), "norm")
    y = product(b, x, "a", bias=bias)
    y = y if bias else b.op("Add", b.constant("a.bias", np.arange(8.0)), y)
    rewrite(behind(b, b.op("Add", y, x)))


def test_a_gemm_that_starts_from_the_stream_it_reads():
    """h = x + layer(x) without a bias is a Gemm that reads x twice; the sum after it must not shift that x."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.input(8), "norm")
    h = b.op("Add", product(b, x, "a"), x)
    rewrite(b.model(b.op("Neg", b.op("Add", product(b, b.op("Relu", h), "b", bias=True), x)), b.op("Tanh", h)))


def test_a_product_of_the_stream_that_is_an_output_of_the_model():
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.input(8), "norm")
    head = product(b, x, "head", 3)
    y = b.op("Add", product(b, b.op("Relu", product(b, x, "up", 6)), "down", bias=True), x)
    rewrite(b.model(b.op("Neg", y), head))


@pytest.mark.parametrize("row_first", [True, False])
def test_a_product_of_one_row_for_all_tokens(row_first):
    """(1, features) times a matrix, added to every token: a Gemm of one row cannot start from all of them."""
    torch.manual_seed(0)
    b = Blocks()
    x, row = b.input(6), b.input(4, name="row")
    row.shape = ir.Shape([1, 4])
    parts = [product(b, x, "a"), product(b, row, "b")]
    y = b.op("Add", *(reversed(parts) if row_first else parts))
    y.shape = ir.Shape(["tokens", 8])
    rewrite(behind(b, y))
