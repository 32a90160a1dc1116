"""A small graph for the tests of precisions, and its conversion."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from losparse_export import apply_precision

Feeds = dict[str, np.ndarray]

QUANTISED = ("int8", "int8-rows", "int8-static", "int8-weights", "int4-weights")
TOKENS, HIDDEN, WIDE = 9, 48, 70


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {
        "table.weight": (30, HIDDEN),
        "q.weight_t": (HIDDEN, WIDE),
        "k.weight_t": (HIDDEN, WIDE),
        "out.weight_t": (WIDE, HIDDEN),
        "head.weight": (5, HIDDEN),
        "q.bias": (WIDE,),
        "out.bias": (HIDDEN,),
        "head.bias": (5,),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def toy_graph(opset: int = 23, **replaced: np.ndarray) -> ir.Model:
    """ids -> Gather -> two products of one input, the first with a bias -> Add -> product -> Gemm (transB), twice."""
    arrays = {**weights(), **replaced}
    stored = {name: value(name, array) for name, array in arrays.items()}
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["tokens"]))
    nodes: list[ir.Node] = []

    def op(op_type: str, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}_output_0"
        nodes.append(node)
        return node.outputs[0]

    x = op("Gather", "/table/Gather", stored["table.weight"], ids)
    q = op("Add", "/q/Add", op("MatMul", "/q/MatMul", x, stored["q.weight_t"]), stored["q.bias"])
    k = op("MatMul", "/k/MatMul", x, stored["k.weight_t"])
    h = op("MatMul", "/out/MatMul", op("Add", "/Add", q, k), stored["out.weight_t"])
    h = op("Add", "/out/Add", h, stored["out.bias"])
    y = op("Gemm", "/head/Gemm", h, stored["head.weight"], stored["head.bias"], transB=1)
    z = op("Gemm", "/head/Gemm_1", x, stored["head.weight"], transB=1)
    for output in (y, z):
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["tokens", 5])
    opsets = {"": opset}
    graph = ir.Graph([ids], [y, z], nodes=nodes, initializers=stored.values(), opset_imports=opsets, name="main")
    return ir.Model(graph, ir_version={23: 11, 18: 10}[opset], producer_name="losparse", producer_version="1")


def value(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)


def feeds(seed: int = 0) -> Feeds:
    return {"ids": np.random.default_rng(seed).integers(0, 30, TOKENS)}


def convert(model: ir.Model, precision: str, **options: Any) -> ir.Model:
    if precision == "int8-static":
        options["calibration"] = [{"ids": np.arange(30)}]  # every activation of the first products, so nothing is cut
    return apply_precision(model, precision, **options)


def as_run(model: ir.Model, folder: Path) -> ir.Model:
    """Return the graph that onnxruntime's CPU provider makes of a model before it runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return ir.load(folder / "optimised.onnx")


def types(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


# Share of the largest output. Of weights of 7 bits, one scale a column, the error is 1/128 of the largest weight, of
# activations 1/255 of their range: over 48 products of random sign, three products deep, 1 to 2 %. 4 bits are 1/16.
# Half precision keeps 11 bits: 0.05 % a rounding, and there are a dozen in a row.
BOUNDS = {
    "int8": 0.03,
    "int8-rows": 0.03,
    "int8-static": 0.03,
    "int8-weights": 0.02,
    "int4-weights": 0.2,
    "fp16": 0.002,
}
