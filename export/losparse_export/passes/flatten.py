"""Flatten tokens once: everything that treats tokens one by one runs on (batch * sequence, features).

    x (b, s, h) -> MatMul -> Add(bias) -> Gelu -> ...     ->     Reshape(-1, h) -> MatMul -> Add(bias) -> Gelu -> ...

onnxruntime turns a product of matrices with its bias into one Gemm, but not a product of (b, s, h): there the bias is
a node of its own that reads and writes every output again. Values go back to three axes only where something - the
attention, the model's output - needs them; a Reshape copies nothing.

The pass runs before the factored layers are lowered, so that every form is written on two axes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from losparse_runtime.contract.tensors import role_of

from ..graph.marks import SCOPE, inherit
from ..graph.node import DOMAIN, OP_TYPE

_UNARY = {"Gelu", "Relu", "Tanh", "Sigmoid", "Erf", "Softplus", "Elu", "LeakyRelu", "HardSwish", "Mish", "Identity"}
_BINARY = {"Add", "Sub", "Mul", "Div"}


class FlattenTokensPass(ir.passes.InPlacePass):
    """Moves token-wise nodes from (batch, sequence, features) to (batch * sequence, features)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        tokens = next((value for value in model.graph.inputs if role_of(value.name or "") == "tokens"), None)
        if tokens is None or tokens.shape is None or len(tokens.shape) != 2:
            return ir.passes.PassResult(model, False)
        flattener = _Flattener(model.graph, tokens)
        for node in tuple(model.graph):
            flattener.visit(node)
        flattener.restore()
        return ir.passes.PassResult(model, bool(flattener.twins))


class _Flattener:
    """Walks the graph once, in order, and holds for every value that was flattened its twin on two axes."""

    def __init__(self, graph: ir.Graph, tokens: ir.Value) -> None:
        assert tokens.shape is not None
        self.graph, self.tokens = graph, tokens
        self.leading = tuple(_axis(axis) for axis in tokens.shape)
        self.twins: dict[ir.Value, ir.Value] = {}
        self.moved: set[ir.Node] = set()
        self.shapes: dict[int, ir.Value] = {}

    def visit(self, node: ir.Node) -> None:
        """Give the node a twin on two axes if it treats tokens one by one."""
        if len(node.outputs) != 1 or not self._is_per_token(node.outputs[0]) or not self._is_token_wise(node):
            return
        inputs = [None if value is None else self._flat(value, node) for value in node.inputs]
        twin = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), version=node.version)
        inherit(twin, node)
        _describe(twin.outputs[0], node.outputs[0])
        self.graph.insert_before(node, twin)
        self.twins[node.outputs[0]] = twin.outputs[0]
        self.moved.add(node)

    def restore(self) -> None:
        """Bring values back to three axes for the nodes that stayed there, and drop the nodes that have twins."""
        for node in tuple(self.graph):
            if node in self.moved:
                self._restore_value(node.outputs[0])
        # Later nodes first: a node can go when nothing reads it any more.
        for node in reversed(tuple(self.graph)):
            if node in self.moved:
                self.graph.remove(node, safe=True)

    def _restore_value(self, value: ir.Value) -> None:
        stayed = [(user, index) for user, index in value.uses() if user not in self.moved]
        if not stayed and not value.is_graph_output():
            return
        twin = self.twins[value]
        producer = twin.producer()
        assert producer is not None
        # No scope: the output of a layer is what the layer's own nodes give.
        back = ir.node("Reshape", [twin, self._three_axes(_width(value))], metadata_props={SCOPE: ""})
        back.outputs[0].type, back.outputs[0].shape = value.type, value.shape
        self.graph.insert_after(producer, back)
        for user, index in stayed:
            user.replace_input_with(index, back.outputs[0])
        if value.is_graph_output():
            back.outputs[0].name, value.name = value.name, None
            self.graph.outputs[list(self.graph.outputs).index(value)] = back.outputs[0]

    def _is_per_token(self, value: ir.Value) -> bool:
        """Tell whether a value has one row of features per token of the input."""
        shape = value.shape
        if shape is None or len(shape) != 3 or not isinstance(shape[2], int):
            return False
        return tuple(_axis(axis) for axis in shape[:2]) == self.leading

    def _is_token_wise(self, node: ir.Node) -> bool:
        """Tell whether a node gives every token's features from that token's features and constants."""
        first, others = node.inputs[0], [value for value in node.inputs[1:] if value is not None]
        if first is None:
            return False
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            return self._is_per_token(first)
        if node.domain != "":
            return False
        if node.op_type == "MatMul":
            return self._is_per_token(first) and _axes(others[0]) == 2
        # Elementwise nodes follow what is flat already: alone they would gain nothing.
        if not any(value in self.twins for value in (first, *others)):
            return False
        if node.op_type in _BINARY:
            return all(self._is_per_token(value) or _axes(value) in (0, 1) for value in (first, *others))
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            return node.attributes.get_int("axis", -1) in (-1, 2) and all(_axes(value) == 1 for value in others)
        return node.op_type in _UNARY

    def _flat(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """Return the twin of a value; one that has no row per token is used as it is."""
        if not self._is_per_token(value):
            return value
        if value not in self.twins:
            two_axes = _constant(self.graph, f"flatten_{_width(value)}", (-1, _width(value)))
            node = ir.node("Reshape", [value, two_axes], metadata_props={SCOPE: ""})
            _describe(node.outputs[0], value)
            self.graph.insert_before(reader, node)
            self.twins[value] = node.outputs[0]
        return self.twins[value]

    def _three_axes(self, width: int) -> ir.Value:
        """Return the shape (batch, sequence, width), computed once from the shape of the input."""
        if width not in self.shapes:
            last = _constant(self.graph, f"unflatten_{width}", (width,))
            shape = ir.node("Shape", [self.tokens], metadata_props={SCOPE: ""})
            whole = ir.node("Concat", [shape.outputs[0], last], {"axis": 0}, metadata_props={SCOPE: ""})
            self.graph.insert_before(self.graph[0], [shape, whole])
            self.shapes[width] = whole.outputs[0]
        return self.shapes[width]


def _constant(graph: ir.Graph, name: str, values: tuple[int, ...]) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(values, np.int64), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(values)]), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]


def _describe(twin: ir.Value, value: ir.Value) -> None:
    twin.type, twin.shape = value.type, ir.Shape([None, _width(value)])


def _width(value: ir.Value) -> int:
    assert value.shape is not None and isinstance(value.shape[2], int), "only values of known width are flattened"
    return value.shape[2]


def _axes(value: ir.Value) -> int | None:
    """Return the number of axes of a constant, None of anything else."""
    return None if value.const_value is None else len(value.const_value.shape)


def _axis(axis: int | ir.SymbolicDim) -> int | str | None:
    return axis if isinstance(axis, int) else axis.value
