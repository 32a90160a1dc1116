"""Int8 products with fixed scales: what onnxruntime runs, what shares a quantisation, and which ranges are taken."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from losparse_export import apply_precision
from losparse_export.precision.ranges import Observed, Range, measure_ranges

from .builders import run_graph
from .toy import as_run, convert, toy_graph, types, value


@pytest.mark.parametrize("opset", [18, 23])
def test_onnxruntime_runs_integer_kernels(tmp_path, opset):
    """Three products of two inputs: one kernel each, one quantisation an input, and no weight is made float again."""
    count = types(as_run(convert(toy_graph(opset), "int8-static"), tmp_path))
    found = {name: count[name] for name in ("QuantizeLinear", "QGemm", "DequantizeLinear", "MatMul", "Gemm")}
    assert found == {"QuantizeLinear": 2, "QGemm": 3, "DequantizeLinear": 0, "MatMul": 0, "Gemm": 2}


def batched_graph() -> ir.Model:
    """x (texts, tokens, 8) -> MatMul -> Add(bias): a product on three axes."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 5)).astype(np.float32)
    stored = [value("layer.weight_t", weight), value("layer.bias", np.ones(5, np.float32))]
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["texts", "tokens", 8]))
    product = ir.node("MatMul", [x, stored[0]], name="/layer/MatMul")
    y = ir.node("Add", [product.outputs[0], stored[1]], name="/layer/Add")
    product.outputs[0].name, y.outputs[0].name = "product", "y"
    y.outputs[0].type, y.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["texts", "tokens", 5])
    graph = ir.Graph([x], [y.outputs[0]], nodes=[product, y], initializers=stored, opset_imports={"": 23}, name="main")
    return ir.Model(graph, ir_version=11)


def test_a_product_on_three_axes_is_an_integer_kernel_too(tmp_path):
    x = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    result = apply_precision(batched_graph(), "int8-static", calibration=[{"x": x}])
    count = types(as_run(result, tmp_path))
    assert (count["MatMulIntegerToFloat"], count["DequantizeLinear"], count["MatMul"]) == (1, 0, 0)
    before, after = (run_graph(model, {"x": x})[0] for model in (batched_graph(), result))
    # 8 products of weights off by 1/128 and activations off by 1/255 of their range.
    assert 0 < np.abs(after - before).max() < 0.03 * np.abs(before).max()


def test_what_is_no_product_reads_what_is_not_rounded():
    """The second head is fp32 and reads the embeddings: as exact as before."""
    model = toy_graph()
    ids = {"ids": np.arange(9)}
    before, after = run_graph(model, ids)[1], run_graph(convert(model, "int8-static"), ids)[1]
    assert np.array_equal(before, after)


def test_numbers_do_not_depend_on_what_else_is_in_the_run():
    """With scales of every run they do."""
    model, ids = toy_graph(), np.arange(30)
    fixed, dynamic = convert(model, "int8-static"), convert(model, "int8")
    alone, beside = ({"ids": each} for each in (ids[:7], ids))
    assert np.array_equal(run_graph(fixed, alone)[0], run_graph(fixed, beside)[0][:7])
    assert not np.allclose(run_graph(dynamic, alone)[0], run_graph(dynamic, beside)[0][:7], rtol=0, atol=1e-3)


@pytest.mark.parametrize("bias", [0.0, 1.0, 1e6, 1e12])
def test_a_bias_of_any_size_is_kept(bias):
    """Where it had more than 2^30 steps, the column's steps are widened: its products are then lost in its rounding."""
    model = toy_graph(**{"out.bias": np.full(48, bias, np.float32)})
    before, after = (run_graph(each, {"ids": np.arange(9)})[0] for each in (model, convert(model, "int8-static")))
    assert np.abs(after - before).max() < 0.03 * np.abs(before).max()


# Ranges


def test_a_range_holds_zero_and_all_of_few_values():
    """What is cut costs more than finer steps gain: cutting 2 by d costs d^2, and rounding 4 values to 2/255 2e-5."""
    x = np.array([[0.5, 1.0], [0.75, 2.0]], np.float32)
    found = measure_ranges([{"x": x}], lambda run: run, {"x": np.ones(2)})["x"]
    assert found.low == 0 and 1.98 < found.high <= 2 and found.zero_point == 0
    assert Range(-1.0, 3.0).zero_point == 64 and Range(0.0, 0.0).scale == 1.0


def test_a_rare_outlier_is_cut_only_where_nobody_minds():
    """Of 100,000 values in -1..1 one is 10: cutting it to h costs (10 - h)^2 * w, w the weight of its feature; rounding
    all of them costs 100,000 * ((h + 1) / 255)^2 / 12, which is 0.5 at h = 1 and 15.5 at h = 10. So with w = 1 cutting
    (81) costs more than it gains, and with w = 0.01 it costs less."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (50_000, 2)).astype(np.float32)
    x[0, 1] = 10
    kept, cut = (
        measure_ranges([{"x": x}], lambda run: run, {"x": np.array([1.0, weight])})["x"].high for weight in (1.0, 0.01)
    )
    assert kept > 7 and cut < 5


def test_a_range_has_the_least_error_of_all():
    """The error is measured here by rounding every value; the choice knows bins of them, which is worth 2 %."""
    random = np.random.default_rng(0)
    x = random.standard_t(4, (2000, 8)).astype(np.float32)
    weights = random.uniform(0, 2, 8)

    def error(found: Range) -> float:
        steps = np.clip(np.rint(x / found.scale) + found.zero_point, 0, 255) - found.zero_point
        return float((weights * (x - steps * found.scale) ** 2).sum())

    seen = Observed(weights)
    seen.widen(x)
    best = measure_ranges([{"x": x[:900]}, {"x": x[900:]}], lambda run: run, {"x": weights})["x"]
    shares = np.linspace(0.1, 1, 19)
    tried = [error(Range(seen.low * low, seen.high * high)) for low in shares for high in shares]
    assert error(best) < 1.02 * min(tried) and error(best) < error(Range(seen.low, seen.high))
