"""Precisions on small graphs: the numbers before and after, which nodes change, and what is refused."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse_export import PRECISION_TABLE, PRECISIONS, apply_precision
from losparse_export.folder.model import fingerprint
from losparse_export.precision.apply import quantisable_nodes

from .builders import run_graph
from .toy import BOUNDS, QUANTISED, WIDE, as_run, convert, feeds, toy_graph, types, value, weights


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("precision", BOUNDS)
def test_numbers(precision, opset):
    model = toy_graph(opset)
    before = run_graph(model, feeds())
    after = run_graph(convert(model, precision), feeds())
    for index, (a, b) in enumerate(zip(after, before, strict=True)):
        difference = np.abs(a - b).max() / np.abs(b).max()
        assert a.dtype == np.float32 and difference < BOUNDS[precision]
        # The second output comes from no product that is quantised; half precision reaches it.
        assert difference > 0 if index == 0 or precision == "fp16" else difference == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_graph_that_went_in_is_not_changed(precision):
    model = toy_graph()
    before = fingerprint(model)
    result = convert(model, precision)
    assert fingerprint(model) == before and dict(model.metadata_props) == {}
    assert (result is model) == (precision == "fp32")


@pytest.mark.parametrize("precision", BOUNDS)
def test_header_names_and_bytes(precision):
    model = toy_graph()
    model.metadata_props["key"] = "value"
    result = convert(model, precision)
    weight_format = precision.endswith("-weights")
    assert result.graph.opset_imports == ({"": 23, "com.microsoft": 1} if weight_format else {"": 23})
    assert (result.ir_version, result.producer_name, result.graph.name) == (11, "losparse", "main")
    assert dict(result.metadata_props) == {"key": "value"}
    names = [node.name for node in result.graph]
    assert all(names) and len(set(names)) == len(names)
    proto = ir.to_proto(result)
    if not weight_format:  # onnx does not know the operators of onnxruntime
        onnx.checker.check_model(proto, full_check=True)
    again = ir.to_proto(convert(toy_graph(), precision))
    del proto.metadata_props[:]
    assert proto.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def signature(model: ir.Model, op_type: str) -> dict[str | None, Any]:
    """What the nodes of a type are and read, by name."""
    return {
        node.name: (node.domain, dict(node.attributes), [each and each.name for each in node.inputs])
        for node in model.graph
        if node.op_type == op_type
    }


@pytest.mark.parametrize("precision", QUANTISED)
def test_gathers_and_gemms_are_left_alone(precision):
    model = toy_graph()
    result = convert(model, precision)
    for op_type in ("Gather", "Gemm", "Add"):
        found = signature(result, op_type)
        if precision == "int8-static":  # whose products are Gemm too, and take their bias along
            made = {name: found.pop(name) for name in ("/q/Gemm", "/k/Gemm", "/out/Gemm") if name in found}
            assert len(made) == (3 if op_type == "Gemm" else 0)
            before = {name: node for name, node in signature(model, op_type).items() if name == "/Add"}
            assert found.keys() == (before if op_type == "Add" else signature(model, op_type)).keys()
        else:
            assert found == signature(model, op_type)
    for name in ("table.weight", "head.weight", "head.bias", *(["q.bias"] if precision != "int8-static" else [])):
        stored = result.graph.initializers[name].const_value
        assert np.array_equal(stored.numpy(), weights()[name])
    assert not [name for name in result.graph.initializers if name.endswith(".weight_t")]  # no fp32 copy stays


def test_products_of_one_input_share_its_quantisation():
    model = toy_graph()
    result = apply_precision(model, "int8")
    count = types(result)
    assert (count["MatMulInteger"], count["DynamicQuantizeLinear"], count["MatMul"]) == (3, 2, 0)
    readers = [node for node in result.graph if node.op_type == "MatMulInteger"]
    assert readers[0].inputs[0] is readers[1].inputs[0] and readers[0].inputs[0] is not readers[2].inputs[0]
    assert types(convert(model, "int8-static"))["QuantizeLinear"] == 2


def test_onnxruntime_makes_one_kernel_of_a_product(tmp_path):
    """The bias goes into it, and where no other product reads the input its quantisation too."""
    count = types(as_run(apply_precision(toy_graph(), "int8"), tmp_path))
    expected = {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2, "DynamicQuantizeMatMul": 1, "Add": 1}
    assert {name: count[name] for name in (*expected, "Mul", "Cast")} == {**expected, "Mul": 0, "Cast": 0}


@pytest.mark.parametrize("precision", QUANTISED)
def test_only_the_chosen_nodes(precision):
    model = toy_graph()
    assert quantisable_nodes(model) == ("/q/MatMul", "/k/MatMul", "/out/MatMul")
    result = convert(model, precision, nodes=["/k/MatMul"])
    assert quantisable_nodes(result) == ("/q/MatMul", "/out/MatMul")
    for name in ("q.weight_t", "out.weight_t"):
        assert np.array_equal(result.graph.initializers[name].const_value.numpy(), weights()[name])
    difference = run_graph(result, feeds())[0] - run_graph(model, feeds())[0]
    assert np.abs(difference).max() > 0


@pytest.mark.parametrize("precision", QUANTISED)
def test_a_weight_that_two_products_read(precision):
    model = toy_graph()
    k = next(node for node in model.graph if node.name == "/k/MatMul")
    k.replace_input_with(1, model.graph.initializers["q.weight_t"])
    del model.graph.initializers["k.weight_t"]
    result = convert(model, precision)
    before, after = run_graph(model, feeds())[0], run_graph(result, feeds())[0]
    assert np.abs(after - before).max() < BOUNDS[precision] * np.abs(before).max()
    matrices = {each for each in result.graph.initializers if each.startswith("q.weight_t")}
    assert matrices and not [name for name in result.graph.initializers if name.startswith("k.weight_t")]


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_quantised_activations_between_layers_belong_to_none(precision):
    """The search for the layer that differs takes what leaves the nodes of a module for the module's output."""
    model = toy_graph()
    inside = next(node for node in model.graph if node.name == "/Add")
    inside.name, inside.outputs[0].name = "/out/Add_1", "/out/Add_1_output_0"
    result = convert(model, precision)
    glue = [n for n in result.graph if "QuantizeLinear" in n.op_type or "Dequantize" in n.op_type]
    activations = [node.name for node in glue if not node.inputs[0].is_initializer()]
    between = [name for name in activations if name.count("/") == 1]
    assert len(between) == len(activations) / 2  # what q and k read; the other is made and read in the layer `out`
    assert all(name.startswith("/out/Add_1") for name in set(activations) - set(between))


def test_int8_weights_have_seven_bits_and_a_scale_a_column():
    result = apply_precision(toy_graph(), "int8")
    stored = result.graph.initializers
    quantised, scale = (
        stored["q.weight_t_quantized"].const_value.numpy(),
        stored["q.weight_t_scale"].const_value.numpy(),
    )
    assert quantised.dtype == np.int8 and scale.shape == (WIDE,)
    assert np.array_equal(np.abs(quantised).max(axis=0), np.full(WIDE, 64))  # 64 x 255 x 2 fits into 16 bits
    assert not stored["q.weight_t_zero_point"].const_value.numpy().any()


@pytest.mark.parametrize("precision", ["int8", "int8-rows", "int8-static"])
def test_int8_weights_of_eight_bits_are_nearer(precision):
    model, runs = toy_graph(), [feeds()] if precision == "int8-static" else None
    steps = {}
    for bits in (7, 8):
        result = apply_precision(model, precision, calibration=runs, weight_bits=bits)
        stored = result.graph.initializers
        quantised = stored["q.weight_t_quantized"].const_value.numpy().astype(np.float64)
        assert np.array_equal(np.abs(quantised).max(axis=0), np.full(WIDE, {7: 64, 8: 127}[bits]))
        steps[bits] = stored["q.weight_t_scale"].const_value.numpy()
    assert np.allclose(steps[8], steps[7] * 64 / 127, rtol=1e-5), "the same range in twice as many steps"


def product_graph(weight: np.ndarray, bias: np.ndarray) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["tokens", len(weight)]))
    product = ir.node("MatMul", [x, value("layer.weight_t", weight)], name="/layer/MatMul")
    y = ir.node("Add", [product.outputs[0], value("layer.bias", bias)], name="/layer/Add")
    product.outputs[0].name, y.outputs[0].name = "product", "y"
    y.outputs[0].type, y.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["tokens", weight.shape[1]])
    stored = [product.inputs[1], y.inputs[1]]
    graph = ir.Graph(
        [x], [y.outputs[0]], nodes=[product, y], initializers=stored, opset_imports={"": 23}, name="product"
    )
    return ir.Model(graph, ir_version=11)


def rounding(terms: np.ndarray) -> np.ndarray:
    """Rounding of fp32 sums of these terms, on both sides: 2^-24 a step, and a step a term."""
    return terms * (2.0**-23 * 300) + 1e-30


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6),
    st.integers(1, 200),
    st.integers(1, 40),
    st.floats(0, 1e3),
    st.floats(0, 10),
    st.integers(0, 2**32),
)
def test_int8_is_within_its_steps(tokens, inner, out, bias_scale, offset, seed):
    """|error| <= sum over the inner axis of |x| dw + |w| dx + dw dx, with the half steps that rounding can be off."""
    random = np.random.default_rng(seed)
    x = (random.normal(size=(tokens, inner)) + offset).astype(np.float32)
    weight = random.normal(size=(inner, out)).astype(np.float32)
    weight[:, random.random(out) < 0.1] = 0  # a column of zeros has no scale of its own
    bias = (random.normal(size=out) * bias_scale).astype(np.float32)
    step_x = (max(x.max(), 0) - min(x.min(), 0)) / 255
    dx = step_x  # half a step of its own, and half of the zero point's, which cuts one end of the range
    dw = np.abs(weight).max(axis=0) / 64 / 2
    terms = np.abs(x) @ np.abs(weight)
    bound = np.abs(x).sum(1)[:, None] * dw + dx * np.abs(weight).sum(0) + inner * dx * dw
    model = product_graph(weight, bias)
    exact = x.astype(np.float64) @ weight + bias
    error = np.abs(run_graph(apply_precision(model, "int8"), {"x": x})[0] - exact)
    assert (error <= bound + rounding(terms + np.abs(bias))).all()


@pytest.mark.parametrize(("precision", "levels"), [("int8-weights", 128), ("int4-weights", 8)])
def test_weight_formats_are_within_their_steps(precision, levels):
    """Blocks of 32 share a scale; the level beyond the last positive one is missing: a whole step there, not a half."""
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(4, 70)).astype(np.float32), random.normal(size=(70, 24)).astype(np.float32)
    dw, dx = np.empty_like(weight), np.empty_like(x)
    for start in range(0, 70, 32):
        block = slice(start, start + 32)
        dw[block] = np.abs(weight[block]).max(axis=0) / levels
        dx[:, block] = np.abs(x[:, block]).max(axis=1, keepdims=True) / 127 / 2  # the kernel takes x in int8
    bound = np.abs(x) @ dw + dx @ np.abs(weight) + dx @ dw
    model = product_graph(weight, np.zeros(24, np.float32))
    result = apply_precision(model, precision)
    error = np.abs(run_graph(result, {"x": x})[0] - x.astype(np.float64) @ weight)
    assert (error <= bound + rounding(np.abs(x) @ np.abs(weight))).all()
    assert error.max() > bound.max() / 100  # it is not the fp32 product
    node = next(node for node in result.graph if node.op_type == "MatMulNBits")
    wanted = {"bits": levels.bit_length(), "block_size": 32, "accuracy_level": 4, "K": 70, "N": 24}
    assert {name: node.attributes[name].as_int() for name in wanted} == wanted
    assert node.domain == "com.microsoft" and len(node.inputs) == 3  # symmetric: no zero points


def test_int8_static_uses_the_ranges_it_was_calibrated_with():
    """Twice the range it has seen is cut: the activation, and with it the output, stays at the end of the range."""
    model = product_graph(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    x = np.array([[-1.0, 0.5, 0.25, 1.0]], np.float32)
    result = apply_precision(model, "int8-static", calibration=[{"x": x / 2}, {"x": x}])
    seen, beyond = (run_graph(result, {"x": x * factor})[0] for factor in (1, 2))
    # Half a step of 2 / 255, and the weight 1 is exact.
    np.testing.assert_allclose(seen, x, rtol=0, atol=1.01 / 255)
    np.testing.assert_allclose(beyond, [[-1.0, 1.0, 0.5, 1.0]], rtol=0, atol=1.01 * 2 / 255)


@pytest.mark.parametrize("precision", QUANTISED)
def test_nothing_else_is_said(precision, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        convert(toy_graph(), precision)
    assert caplog.messages == [] and capfd.readouterr() == ("", "")


def test_the_libraries_do_not_configure_logging():
    """They call basicConfig, one of them when it is imported: the root logger and sys.path stay as they were."""
    program = f"""
import sys; sys.path[:0] = {[p for p in sys.path if p]!r}
import logging
from tests.export.toy import BOUNDS, convert, toy_graph
before = list(sys.path)
for precision in BOUNDS:
    convert(toy_graph(), precision)
root = logging.getLogger()
print(root.handlers, root.level == logging.WARNING, sys.path == before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True True\n"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("fp16 is for GPU providers")


def test_every_precision_says_what_it_is_for():
    assert PRECISIONS == ("fp32", "int8", "int8-rows", "int8-static", "int8-weights", "int4-weights", "fp16")
    assert all(PRECISION_TABLE[name].name == name and PRECISION_TABLE[name].purpose for name in PRECISIONS)


REFUSALS = [
    (
        "int3",
        {},
        "precision must be one of fp32, int8, int8-rows, int8-static, int8-weights, int4-weights, fp16, got 'int3'",
    ),
    (
        "int8-static",
        {},
        "precision 'int8-static' needs texts to measure its scales on, got none; give them with calibration= "
        "(--calibration FILE), or labelled ones with data= (--data FILE), or choose 'int8'",
    ),
    (
        "int8",
        {"calibration": []},
        "calibration is for precision 'int8-static', got it with 'int8'; leave calibration= (--calibration) out",
    ),
    (
        "int8",
        {"nodes": ["/q/MatMul", "/head/Gemm"]},
        "node '/head/Gemm' cannot be quantised: it must be a MatMul with a constant float matrix, "
        "the graph has 3 of them",
    ),
    (
        "int4-weights",
        {"nodes": []},
        "precision 'int4-weights' needs a MatMul node with a constant float matrix to quantise, got none; "
        "fp32 and fp16 need none",
    ),
    ("int8", {"weight_bits": 6}, "weight_bits must be 7 or 8, got 6"),
    (
        "fp16",
        {"weight_bits": 8},
        "weight_bits=8 is for precision 'int8', 'int8-rows', 'int8-static', got it with 'fp16'; leave weight_bits= "
        "(--weight-bits) out",
    ),
    (
        "int8-static",
        {"calibration": []},
        "calibration must hold the inputs of at least one run, got none; give some, or choose 'int8'",
    ),
]


@pytest.mark.parametrize(("precision", "options", "message"), REFUSALS)
def test_refusals(precision, options, message):
    with pytest.raises(LosparseError, match=f"^{re.escape(message)}$"):
        apply_precision(toy_graph(), precision, **options)
