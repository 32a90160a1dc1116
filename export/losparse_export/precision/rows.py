"""Int8 products whose activations have a scale a row, computed in every run: no row has a part in another's rounding.

    x -> MatMul(W)   ->   x -> Mul(127 / size) -> QuantizeLinear(1) -> DequantizeLinear(1) -> MatMul(dequantised W)
                                                                                          -> Mul(size / 127)

                          size = the row's largest number, whatever its sign

A row is a token, so neither other texts nor padding change what is said of one. All readers of x share its scales and
its rounding. For onnxruntime what begins with QuantizeLinear is an integer kernel (MatMulIntegerToFloat), for the scale
in it is a constant; OpenVINO makes one of it too. A QuantizeLinear with a scale a row, on axis 0, would save the first
Mul, 1 to 5 % of the whole, but OpenVINO 2026.4 makes a graph of it whose outputs are empty.

What rows cost beside one scale for all is the search for the largest numbers, this Mul, and two passes over the
outputs: the other Mul, and the Add of the bias, which the kernel would have taken along.

Where nothing of x can lie far below zero, behind a Gelu or a Relu, most of the 256 steps are for what is above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..graph.constants import add_constant, constant_matrix
from .emit import Emitter, Names
from .weights import MOST, column_scales, store_columns

# A byte has so many steps beside zero, and this one stands for zero: a scale is the row's own, but an integer kernel
# has one zero point for all rows.
_STEPS, _MIDDLE = 255, 128

# Of activations that are bounded below: the bound and the step that stands for zero. Gelu has its minimum of -0.17 at
# -0.75; a row with a number above 1.2 has finer steps so than around a middle.
_BOUNDED: Mapping[str, tuple[float, int]] = {"Gelu": (0.17, 32), "Relu": (0.0, 0)}

# The smallest scale: that of a row of zeros.
_LEAST = 1e-30


def quantize_rows_int8(model: ir.Model, nodes: Sequence[str], *, bits: int) -> ir.Model:
    """As int8, with a scale for every row of activations; the model is not changed.

    Args:
        model: a finished graph.
        nodes: names of products with a constant float matrix.
        bits: of a weight.
    """
    result = model.clone()
    writer, chosen = _Writer(result.graph, MOST[bits]), set(nodes)
    for node in [node for node in result.graph if node.name in chosen]:
        writer.replace(node)
    return result


@dataclass(frozen=True)
class _Rounded:
    """What products read in the place of an activation.

    Attributes:
        numbers: whole numbers, as floats that onnxruntime knows to be some; (..., in).
        scales: of the rows; (..., 1).
    """

    numbers: ir.Value
    scales: ir.Value


@dataclass
class _Writer:
    """Writes products anew.

    Attributes:
        graph: where.
        most: the largest weight, in steps.
        names: of the graph's nodes.
        activations: by name.
        weights: dequantised matrices, by name.
        constants: of all products, by name.
    """

    graph: ir.Graph
    most: float
    names: Names = field(init=False)
    activations: dict[str, _Rounded] = field(default_factory=dict)
    weights: dict[str, ir.Value] = field(default_factory=dict)
    constants: dict[str, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Learn the names that are taken."""
        self.names = Names(self.graph)

    def replace(self, node: ir.Node) -> None:
        """Write one product."""
        read, weight = node.inputs[0], node.inputs[1]
        assert read is not None and read.name is not None and weight is not None
        if read.name not in self.activations:
            self.activations[read.name] = self._rounded(read, node)
        rounded, new = self.activations[read.name], Emitter(self.graph, node, self.names)
        whole = new.node("MatMul", rounded.numbers, self._weight(weight, new))
        found, name = new.node("Mul", whole, rounded.scales), node.outputs[0].name
        new.put(found, node.outputs[0])
        found.name = name

    def _weight(self, weight: ir.Value, new: Emitter) -> ir.Value:
        """Store a matrix in int8 with a scale a column, and dequantise it."""
        matrix = constant_matrix(weight)
        assert matrix is not None and weight.name is not None, "only products with a constant are chosen"
        if weight.name not in self.weights:
            parts = store_columns(self.graph, weight.name, matrix, column_scales(matrix, self.most), self.most)
            self.weights[weight.name] = new.node("DequantizeLinear", *parts, axis=1)
        return self.weights[weight.name]

    def _rounded(self, read: ir.Value, before: ir.Node) -> _Rounded:
        """Round what products read, once for all."""
        new, producer = Emitter(self.graph, before, self.names, module=""), read.producer()
        low, zero = _BOUNDED.get("" if producer is None else producer.op_type, (None, _MIDDLE))
        sizes = new.node("Abs", read) if low is None else read
        largest = new.node("ReduceMax", sizes, new.numbers([-1]), keepdims=1)
        steps, least = np.float32(_STEPS - zero), max(_LEAST, low / zero if low else 0.0)
        largest = new.node("Clip", largest, self._constant(f"least_{zero}", steps * np.float32(least)))
        # Multiplying a whole activation by one number a row takes half as long as dividing it.
        shares = new.node("Div", self._constant(f"steps_{zero}", steps), largest)
        scales = new.node("Mul", largest, self._constant(f"step_{zero}", np.float32(1) / steps))
        one, middle = self._constant("one", np.float32(1)), self._constant(f"zero_{zero}", np.array(zero, np.uint8))
        stored = new.node("QuantizeLinear", new.node("Mul", read, shares), one, middle)
        return _Rounded(new.node("DequantizeLinear", stored, one, middle), scales)

    def _constant(self, name: str, number: np.generic | np.ndarray) -> ir.Value:
        if name not in self.constants:
            self.constants[name] = add_constant(self.graph, f"/rows_{name}", np.asarray(number))
        return self.constants[name]
