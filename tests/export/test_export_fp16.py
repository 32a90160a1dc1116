"""Half precision on small graphs: what stays in fp32, what it weighs, and what is said of it."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from losparse.errors import LosparseError
from losparse_export import apply_precision

from .builders import run_graph
from .toy import as_run, toy_graph, value


def fp16_graph() -> ir.Model:
    """x -> two LayerNormalizations of one input and one weight -> Attention -> Softmax; and n -> float -> integers."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", "tokens", 8]))
    scale = value("norm.weight", np.ones(8, np.float32))
    big = value("big", np.array(4097.0, np.float32))
    n = ir.Value(name="n", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch"]))
    double = ir.node("Add", [x, x], name="/Add")
    norms = [
        ir.node("LayerNormalization", [double.outputs[0], scale], name=f"/norm{i}/LayerNormalization") for i in "ab"
    ]
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    attention = ir.node("Attention", [norms[0].outputs[0], norms[1].outputs[0], x], heads, name="/Attention")
    softmax = ir.node("Softmax", [attention.outputs[0]], name="/Softmax")
    number = ir.node("Cast", [n], {"to": ir.DataType.FLOAT.value}, name="/Cast_1")
    scaled = ir.node("Mul", [number.outputs[0], big], name="/Mul")
    cast = ir.node("Cast", [scaled.outputs[0]], {"to": ir.DataType.INT64.value}, name="/Cast")
    nodes = [double, *norms, attention, softmax, number, scaled, cast]
    for node in nodes:
        output = node.outputs[0]
        output.name, output.type, output.shape = f"{node.name}_output_0", ir.TensorType(ir.DataType.FLOAT), x.shape
    for node in (number, scaled, cast):
        node.outputs[0].shape = n.shape
    cast.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    outputs = [softmax.outputs[0], cast.outputs[0]]
    graph = ir.Graph([x, n], outputs, nodes=nodes, initializers=[scale, big], opset_imports={"": 23}, name="half")
    return ir.Model(graph, ir_version=11)


def test_fp16_keeps_sums_and_indices_in_fp32():
    result = apply_precision(fp16_graph(), "fp16")
    nodes = {node.name: node for node in result.graph}
    for name in ("/norma/LayerNormalization", "/normb/LayerNormalization", "/Softmax", "/Mul"):
        assert nodes[name].inputs[0].dtype == ir.DataType.FLOAT, name
    assert nodes["/Attention"].inputs[0].dtype == nodes["/Add"].outputs[0].dtype == ir.DataType.FLOAT16
    assert nodes["/Attention"].attributes["softmax_precision"].as_int() == onnx.TensorProto.FLOAT
    assert result.graph.initializers["norm.weight"].const_value.dtype == ir.DataType.FLOAT
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    feed = {"x": x, "n": np.array([1, 4095])}
    expected, actual = run_graph(fp16_graph(), feed), run_graph(result, feed)
    # Values of magnitude 2 in 11 bits, a few roundings, and a softmax whose entries are below 1.
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=2e-3)
    assert actual[1].tolist() == [4097, 4095 * 4097]  # none of the four is a number in half precision, but 1


def test_fp16_halves_the_weights():
    sizes = [
        sum(v.const_value.nbytes for v in model.graph.initializers.values())
        for model in (toy_graph(), apply_precision(toy_graph(), "fp16"))
    ]
    assert sizes[1] * 2 == sizes[0]


def test_the_cpu_provider_widens_fp16_as_the_warning_says(tmp_path):
    graph = as_run(apply_precision(toy_graph(), "fp16"), tmp_path).graph
    products = [node for node in graph if node.op_type in ("MatMul", "Gemm")]
    stored = [each.const_value for node in products for each in node.inputs if each.const_value is not None]
    assert products and stored and all(tensor.dtype == ir.DataType.FLOAT for tensor in stored)


def test_fp16_warns(caplog):
    with caplog.at_level(logging.WARNING):
        apply_precision(toy_graph(), "fp16")
    assert [record.name for record in caplog.records] == ["losparse_export.precision.apply"]
    assert caplog.messages == [
        "fp16 is for GPU providers: onnxruntime's CPU provider widens its weights and numbers back to fp32, so there "
        "it saves neither time nor memory, only the size of the file; for CPUs take int8"
    ]


def test_a_graph_without_products_is_refused():
    model = fp16_graph()
    for precision in ("int8", "int8-weights"):
        with pytest.raises(LosparseError, match="needs a MatMul node with a constant float matrix"):
            apply_precision(model, precision)
