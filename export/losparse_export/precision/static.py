"""Int8 products whose activations have a fixed scale, as onnxruntime and other runtimes know them.

    x -> MatMul(W) -> Add(bias)   ->   x -> QuantizeLinear -> DequantizeLinear -> Gemm(dequantised W, dequantised bias)

All readers of x share one QuantizeLinear, and what is no such product reads x itself. onnxruntime makes one integer
kernel of a Gemm between these nodes (QGemm, whose output is float), but only where its bias is quantised too: as int32,
in steps of scale of x * scale of the column. A MatMul with a float Add behind it, which the library's own static
quantisation leaves, becomes a float Gemm first and then no integer kernel. Products on more than two axes stay MatMul
and Add, of which onnxruntime makes MatMulIntegerToFloat and an Add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common

from losparse_runtime.dependencies import import_onnxruntime

from ..graph.constants import add_constant, constant_matrix, constant_vector, replace_value
from ..graph.naming import module_of_path, scope_path
from .files import MODEL
from .ranges import Range, measure_ranges
from .weights import MOST, column_scales, store_columns

Array = NDArray[Any]
Feeds = Mapping[str, Array]

# A bias may take this many steps: half of what int32 holds, the other half is the product's.
_MOST_STEPS = 2.0**30


def quantize_static_int8(
    model: ir.Model, folder: Path, nodes: Sequence[str], calibration: Sequence[Feeds], *, bits: int
) -> ir.Model:
    """As int8, with the scales of activations measured once; the model is not changed."""
    result = model.clone()
    common.ShapeInferencePass()(result)  # a product must be known to be one on two axes
    products = [node for node in result.graph if node.name in set(nodes)]
    ranges = _measure(result, products, calibration, folder)
    writer = _Writer(result.graph, ranges, MOST[bits])
    for node in products:
        writer.replace(node)
    return result


def _measure(
    model: ir.Model, products: Sequence[ir.Node], calibration: Sequence[Feeds], folder: Path
) -> dict[str, Range]:
    """Measure the ranges of what some products read."""
    weights: dict[str, Array] = {}
    for node in products:
        matrix, read = constant_matrix(node.inputs[1]), node.inputs[0]
        assert matrix is not None and read is not None and read.name is not None, "a product reads a named value"
        made_of_it = (matrix.astype(np.float64) ** 2).sum(axis=1)
        weights[read.name] = weights.get(read.name, np.zeros(len(matrix))) + made_of_it
    probed = model.clone()
    values = {value.name: value for node in probed.graph for value in node.outputs}
    given = {value.name for value in (*probed.graph.inputs, *probed.graph.outputs)}
    probed.graph.outputs.extend(values[name] for name in weights if name not in given)
    ir.save(probed, folder / MODEL, external_data="model.data")
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
    made = [name for name in weights if name in values]

    def observe(feeds: Feeds) -> dict[str, Array]:
        found = dict(zip(made, session.run(made, dict(feeds)), strict=True)) if made else {}
        return found | {name: feeds[name] for name in weights if name not in found}

    return measure_ranges(calibration, observe, weights)


@dataclass
class _Writer:
    """Writes products anew.

    Attributes:
        graph: where.
        ranges: of what the products read, by name.
        most: the largest weight, in steps.
        activations: quantised and dequantised, by name.
        weights: dequantised matrices, by name and the bytes of their scales.
    """

    graph: ir.Graph
    ranges: Mapping[str, Range]
    most: float
    activations: dict[str, ir.Value] = field(default_factory=dict)
    weights: dict[tuple[str, bytes], ir.Value] = field(default_factory=dict)

    def replace(self, node: ir.Node) -> None:
        """Write one product, its bias included where it can be."""
        read, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
        assert read is not None and read.name is not None and weight is not None
        step, matrix = self.ranges[read.name].scale, constant_matrix(weight)
        assert matrix is not None, "only products with a constant are chosen"
        adder, bias = _bias(node, matrix.shape[1]) if _axes(read) == 2 else (None, None)
        scales = column_scales(matrix, self.most)
        if bias is not None:
            scales = np.maximum(scales, np.abs(bias) / (_MOST_STEPS * step)).astype(np.float32)
        inputs = [self._activation(read, node), self._weight(weight, matrix, scales, node)]
        if bias is not None:
            inputs.append(self._bias(bias, scales * np.float32(step), node))
        old = output if adder is None else adder.outputs[0]
        kind = "Gemm" if _axes(read) == 2 else "MatMul"
        product = ir.node(kind, inputs, name=self._free(f"{_module(node)}/{kind}"))
        product.outputs[0].type, product.outputs[0].shape = old.type, old.shape
        self.graph.insert_before(node, product)
        name = old.name
        replace_value(old, product.outputs[0])
        for gone in [node] if adder is None else [adder, node]:
            self.graph.remove(gone, safe=True)
        product.outputs[0].name = name

    def _activation(self, read: ir.Value, before: ir.Node) -> ir.Value:
        """Quantise what a product reads, once for all, and dequantise it for this one."""
        assert read.name is not None
        if read.name not in self.activations:
            found = self.ranges[read.name]
            scale = add_constant(self.graph, f"{read.name}_scale", np.array(found.scale, np.float32))
            zero = add_constant(self.graph, f"{read.name}_zero_point", np.array(found.zero_point, np.uint8))
            stored = self._node("QuantizeLinear", f"{read.name}_QuantizeLinear", [read, scale, zero], read, before)
            stored.type = ir.TensorType(ir.DataType.UINT8)
            name = f"{read.name}_DequantizeLinear"
            self.activations[read.name] = self._node("DequantizeLinear", name, [stored, scale, zero], read, before)
        return self.activations[read.name]

    def _weight(self, weight: ir.Value, matrix: Array, scales: Array, before: ir.Node) -> ir.Value:
        """Store a matrix in int8 with a scale a column, and dequantise it."""
        assert weight.name is not None
        key = weight.name, scales.tobytes()
        if key not in self.weights:
            inputs = store_columns(self.graph, weight.name, matrix, scales, self.most)
            name = f"{_module(before)}/{inputs[0].name}_DequantizeLinear"
            self.weights[key] = self._node("DequantizeLinear", name, inputs, weight, before, axis=1)
        return self.weights[key]

    def _bias(self, bias: Array, steps: Array, before: ir.Node) -> ir.Value:
        """Store a bias in int32, and dequantise it."""
        name = f"{_module(before).removeprefix('/').replace('/', '.')}.bias"
        whole = np.rint(bias / steps.astype(np.float64)).astype(np.int32)
        parts = {"quantized": whole, "scale": steps, "zero_point": np.zeros(len(steps), np.int32)}
        inputs = [add_constant(self.graph, f"{name}_{part}", array) for part, array in parts.items()]
        like = ir.Value(type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([len(bias)]))
        return self._node(
            "DequantizeLinear", f"{_module(before)}/{name}_DequantizeLinear", inputs, like, before, axis=0
        )

    def _node(
        self, kind: str, name: str, inputs: Sequence[ir.Value], like: ir.Value, before: ir.Node, **attributes: Any
    ) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=self._free(name))
        output = node.outputs[0]
        output.name, output.type, output.shape = f"{node.name}_output_0", like.type, like.shape
        self.graph.insert_before(before, node)
        return output

    def _free(self, name: str) -> str:
        taken, count, full = {node.name for node in self.graph}, 0, name
        while full in taken:
            count += 1
            full = f"{name}_{count}"
        return full


def _module(node: ir.Node) -> str:
    return scope_path(module_of_path(node.name or ""))


def _axes(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _bias(node: ir.Node, width: int) -> tuple[ir.Node, Array] | tuple[None, None]:
    """Return the Add of a constant vector that alone reads a product, and the vector."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0][0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None, None
    adder, place = uses[0]
    bias = constant_vector(adder.inputs[1 - place], width)
    return (None, None) if bias is None else (adder, bias)
