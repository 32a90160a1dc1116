"""An older operator set, last of all: passes work on operators that say what they mean, files may need to do without.

    Attention, RotaryEmbedding    ->   products, sums and a Softmax, per head (`older_attention`)
    RMSNormalization              ->   x / Sqrt(ReduceMean(x^2) + epsilon) * scale
    Gelu                          ->   x (1 + Erf(x / sqrt 2)) / 2, or its approximation by Tanh
    DFT                           ->   with its axis as an attribute

They come with opset 20 and 23, and are written in the forms that onnxruntime joins into one kernel again. All else that
a graph holds is the same in opset 18, which is looked at and not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from losparse.errors import LosparseError

from ..graph.constants import add_constant, new_node, replace_value
from ..graph.opsets import IR_VERSIONS, NEWEST
from .older_attention import AttentionWriter, RotaryWriter

# Operators of both sets that mean something else in the older one, or say it in another way.
_CHANGED = frozenset(("DFT", "GridSample", "GroupNormalization"))

Writer = Callable[[ir.Graph, ir.Node], ir.Value | None]
"""Writes what a node computes in front of it, and returns it; None where it cannot."""


class OlderOpsetPass(ir.passes.InPlacePass):
    """Writes a graph in the operators of a set, where its own is newer.

    Args:
        opset: the set: a key of `IR_VERSIONS`.
    """

    def __init__(self, opset: int) -> None:
        super().__init__()
        self._opset = opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph.

        Raises:
            LosparseError: an operator of the graph is not in the set.
        """
        if model.graph.opset_imports.get("", NEWEST) <= self._opset:
            return ir.passes.PassResult(model, False)
        writers: dict[str, Writer] = {
            "Attention": AttentionWriter(),
            "DFT": _dft,
            "Gelu": _gelu,
            "RMSNormalization": _rms_norm,
            "RotaryEmbedding": RotaryWriter(),
        }
        for node in tuple(model.graph):
            if node.domain != "" or self._has(node):
                continue
            written = writers[node.op_type](model.graph, node) if node.op_type in writers else None
            if written is None:
                raise LosparseError(
                    f"this model needs {node.op_type}, which opset {self._opset} has not in this form; leave out "
                    f"opset= (--opset) for opset {NEWEST}"
                )
            replace_value(node.outputs[0], written)
            model.graph.remove(node, safe=True)
        model.graph.opset_imports[""] = self._opset
        model.ir_version = IR_VERSIONS[self._opset]
        return ir.passes.PassResult(model, True)

    def _has(self, node: ir.Node) -> bool:
        """Tell whether the set has the operator of a node, with its inputs and attributes and the same meaning."""
        if node.op_type in _CHANGED:
            return False
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset)
        except onnx.defs.SchemaError:
            return False
        fits = len(node.inputs) <= schema.max_input and len(node.outputs) <= schema.max_output
        return fits and not schema.deprecated and set(node.attributes) <= set(schema.attributes)


def _gelu(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    x = node.inputs[0]
    assert x is not None and x.dtype is not None, "every value of a trace has a type"

    def add(op_type: str, *inputs: ir.Value) -> ir.Value:
        return new_node(graph, node, op_type, inputs, like=node.outputs[0], scope=node)

    def number(name: str, value: float) -> ir.Value:
        return _number(graph, f"gelu_{name}", value, x)

    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = add("Mul", add("Pow", x, number("power", 3.0)), number("cube", 0.044715))
        inner = add("Mul", add("Add", x, cube), number("tanh", math.sqrt(2 / math.pi)))
        bent = add("Add", add("Tanh", inner), number("one", 1.0))
        return add("Mul", add("Mul", x, number("half", 0.5)), bent)
    bent = add("Add", add("Erf", add("Div", x, number("erf", math.sqrt(2.0)))), number("one", 1.0))
    return add("Mul", add("Mul", x, bent), number("half", 0.5))


def _rms_norm(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    x, scale = node.inputs[:2]
    assert x is not None and scale is not None and x.shape is not None, "the trace knows what is normalised"
    axis = node.attributes.get_int("axis", -1)
    axes = np.arange(axis if axis < 0 else axis - len(x.shape), 0)

    def add(op_type: str, *inputs: ir.Value) -> ir.Value:
        return new_node(graph, node, op_type, inputs, like=node.outputs[0], scope=node)

    square = add("Pow", x, _number(graph, "norm_power", 2.0, x))
    mean = add("ReduceMean", square, add_constant(graph, "norm_axes", axes))
    shifted = add("Add", mean, _number(graph, "norm_epsilon", node.attributes.get_float("epsilon", 1e-5), x))
    root = add("Sqrt", shifted)
    for value in (mean, shifted, root):
        value.shape = ir.Shape([*x.shape.dims[: axes[0]], *[1] * len(axes)])
    return add("Mul", add("Div", x, root), scale)


def _dft(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    x, length, axis = (*node.inputs, None, None)[:3]
    assert x is not None and x.shape is not None, "the trace knows what is transformed"
    place = -2 if axis is None else axis.const_value
    if place is None:
        return None
    number = place if isinstance(place, int) else int(place.numpy())
    attributes = {name: node.attributes.get_int(name, 0) for name in ("inverse", "onesided")}
    inputs = [x] if length is None else [x, length]
    return new_node(
        graph, node, "DFT", inputs, like=node.outputs[0], scope=node, axis=number % len(x.shape), **attributes
    )


def _number(graph: ir.Graph, name: str, value: float, like: ir.Value) -> ir.Value:
    assert like.dtype is not None, "every value of a trace has a type"
    return add_constant(graph, name, np.array(value, like.dtype.numpy()))
