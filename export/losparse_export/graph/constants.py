"""Small helpers of the passes: constants of a graph, and new nodes in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from .marks import inherit, mark_wanted, marks_of
from .node import Array


def constant_matrix(value: ir.Value | None) -> Array | None:
    """Return the numbers of a constant with two axes, None for anything else."""
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    return np.asarray(value.const_value.numpy())


def constant_vector(value: ir.Value | None, width: int) -> Array | None:
    """Return the numbers of a constant of one number a feature, (width,), None for anything else."""
    if value is None or value.const_value is None or tuple(value.const_value.shape.numpy()) != (width,):
        return None
    return np.asarray(value.const_value.numpy())


def digest(array: Array) -> str:
    """Identify numbers by their hash: holding the bytes themselves would double the memory of the model."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def derived_name(value: ir.Value | None, ending: str) -> str:
    """Name a constant after the one it is made from.

    The tracer's own names have no dot and are replaced at the end (`naming`); what is derived from them must be, too.
    """
    name = "" if value is None or value.name is None else value.name
    return f"{name}.{ending}" if "." in name else f"{name}_{ending}"


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Store an array in the graph; under a numbered name where the name is taken."""
    full, count = name, 1
    while full in graph.initializers:
        count += 1
        full = f"{name}_{count}"
    tensor = ir.tensor(np.asarray(array, order="C"), name=full)
    value = ir.Value(name=full, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def stored(graph: ir.Graph, old: ir.Value, array: Array) -> ir.Value:
    """Return an initialiser with new numbers: the old one where nothing else reads it, so that its name stays."""
    assert old.name is not None, "initialisers have names"
    if len(list(old.uses())) > 1:
        return add_constant(graph, old.name, array)
    old.const_value = ir.tensor(np.ascontiguousarray(array), name=old.name)
    old.shape = ir.Shape(array.shape)
    return old


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let everything read another value; an output of the graph keeps its name."""
    name = old.name if old.is_graph_output() else None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if name is not None:
        old.name, new.name = None, name


def new_node(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    like: ir.Value,
    scope: ir.Node,
    **attributes: Any,
) -> ir.Value:
    """Insert a standard node with one output.

    Args:
        graph: where to.
        before: the node it is put before.
        op_type: as in "Gemm".
        inputs: of the node.
        like: gives the output its type and shape.
        scope: the node whose module, and whose precision, the new one belongs to.
        attributes: of the node.
    """
    node = inherit(ir.node(op_type, inputs, attributes or None), scope)
    mark_wanted(node, marks_of(scope).wanted)
    node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
    graph.insert_before(before, node)
    return node.outputs[0]
