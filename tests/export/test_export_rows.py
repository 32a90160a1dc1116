"""Int8 products with a scale a row: what onnxruntime runs, what shares a rounding, and that no row moves another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from losparse_export import apply_precision

from .builders import run_graph
from .test_export_static import batched_graph
from .toy import as_run, toy_graph, types, value

HIDDEN, OUT = 16, 8


def one_product(before: str | None = None, opset: int = 23) -> ir.Model:
    """x (tokens, 16) -> the operator named -> MatMul, whose weight is the identity and more, so that y shows x."""
    weight = np.eye(HIDDEN, OUT, dtype=np.float32)
    stored = value("layer.weight_t", weight)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["tokens", HIDDEN]))
    nodes, read = [], x
    if before is not None:
        nodes.append(ir.node(before, [x], name=f"/act/{before}"))
        read = nodes[0].outputs[0]
        read.name = "act"
    product = ir.node("MatMul", [read, stored], name="/layer/MatMul")
    y = product.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["tokens", OUT])
    graph = ir.Graph([x], [y], nodes=[*nodes, product], initializers=[stored], opset_imports={"": opset}, name="main")
    return ir.Model(graph, ir_version={23: 11, 18: 10}[opset])


def said(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(run_graph(model, {"x": x.astype(np.float32)})[0])


@pytest.mark.parametrize("opset", [18, 23])
def test_onnxruntime_runs_integer_kernels(tmp_path, opset):
    """Three products of two inputs: one kernel each, one search for the largest numbers an input."""
    model = apply_precision(toy_graph(opset), "int8-rows")
    count = types(as_run(model, tmp_path))
    found = {name: count[name] for name in ("MatMulIntegerToFloat", "ReduceMax", "DequantizeLinear", "MatMul", "Gemm")}
    assert found == {"MatMulIntegerToFloat": 3, "ReduceMax": 2, "DequantizeLinear": 0, "MatMul": 0, "Gemm": 2}


def test_no_row_moves_another():
    """Bit for bit: a huge row, one that is not finite and one of zeros beside it change nothing."""
    model = apply_precision(one_product(), "int8-rows")
    x = np.random.default_rng(0).normal(size=(5, HIDDEN))
    others = np.stack([np.full(HIDDEN, 1e6), np.full(HIDDEN, np.nan), np.full(HIDDEN, np.inf), np.zeros(HIDDEN)])
    alone, beside = said(model, x), said(model, np.concatenate([others, x]))
    assert np.array_equal(alone, beside[4:])
    assert np.array_equal(alone, np.concatenate([said(model, row[None]) for row in x]))
    dynamic = apply_precision(one_product(), "int8")
    assert np.abs(said(dynamic, x) - said(dynamic, np.concatenate([others[:1], x]))[1:]).max() > 0.5


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 1e4, 1e20])
def test_every_row_is_rounded_by_its_own_size(size):
    """A step is 1/127 of the row's largest number, and half of one is lost at most; a weight of 1 is exact."""
    x = np.random.default_rng(1).normal(size=(6, HIDDEN)) * size * np.array([[1], [10], [0.1], [1], [1], [1]])
    lost = np.abs(said(apply_precision(one_product(), "int8-rows"), x) - x[:, :OUT])
    steps = np.abs(x).max(axis=1, keepdims=True) / 127
    assert (lost <= 0.501 * steps).all() and (lost.max(axis=1) > 0.1 * steps[:, 0]).all()


def test_a_row_of_zeros_is_zero():
    assert not said(apply_precision(one_product(), "int8-rows"), np.zeros((2, HIDDEN))).any()


@pytest.mark.parametrize("before", ["Relu", "Gelu"])
def test_what_is_never_far_below_zero_has_finer_steps(before):
    """Behind a Relu a step is 1/255 of the largest number; behind a Gelu 1/223, and 0.17/32 at least."""
    x = np.random.default_rng(2).normal(size=(6, HIDDEN)) * 3
    expected = said(one_product(before), x)
    lost = np.abs(said(apply_precision(one_product(before), "int8-rows"), x) - expected)
    read = np.maximum(x, 0) if before == "Relu" else x
    steps = read.max(axis=1, keepdims=True) / {"Relu": 255, "Gelu": 223}[before]
    least = 0.17 / 32 if before == "Gelu" else 0.0
    assert (lost <= 0.501 * np.maximum(steps, least) + 1e-6).all() and lost.max() > 0


def test_the_least_of_a_gelu_is_kept_in_a_row_of_small_numbers():
    """-0.17 at -0.75, and nothing above 0.01: the 32 steps below zero hold it."""
    x = np.tile([-0.75, -0.5, 0.01, 0.0], (2, HIDDEN // 4))
    before, after = (
        said(model, x) for model in (one_product("Gelu"), apply_precision(one_product("Gelu"), "int8-rows"))
    )
    assert before.min() < -0.169 and np.abs(after - before).max() <= 0.5 * 0.17 / 32 + 1e-6


def test_a_product_on_three_axes_is_an_integer_kernel_too(tmp_path):
    x = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    result = apply_precision(batched_graph(), "int8-rows")
    count = types(as_run(result, tmp_path))
    assert (count["MatMulIntegerToFloat"], count["DequantizeLinear"], count["MatMul"]) == (1, 0, 0)
    before, after = (run_graph(model, {"x": x})[0] for model in (batched_graph(), result))
    # 8 products of weights off by 1/128 and activations off by 1/254 of the largest.
    assert 0 < np.abs(after - before).max() < 0.03 * np.abs(before).max()
    large = x.copy()
    large[0, 1] *= 1000
    moved = run_graph(result, {"x": large})[0]
    same = np.array([[True, False, True], [True, True, True]])
    assert np.array_equal(moved[same], after[same])


def test_what_is_no_product_reads_what_is_not_rounded():
    """The second head is fp32 and reads the embeddings: as exact as before."""
    ids = {"ids": np.arange(9)}
    before, after = run_graph(toy_graph(), ids)[1], run_graph(apply_precision(toy_graph(), "int8-rows"), ids)[1]
    assert np.array_equal(before, after)
