"""Masks of attention with a row for every query: onnxruntime's Attention takes no mask that is one row for all.

    mask (b, 1, 1, s) -> Attention, Attention, ...

    mask (b, 1, 1, s) -> Expand (b, 1, s, s) -> Attention, Attention, ...

The operator broadcasts its mask by its definition, and torch's exporter relies on it; onnxruntime 1.31 compares the
mask's last but one axis with the queries and fails (LayoutLM, Falcon). One Expand serves all blocks of a mask.
"""

from __future__ import annotations

import onnx_ir as ir

_QUERY, _MASK = 0, 3


class WidenMasksPass(ir.passes.InPlacePass):
    """Gives every Attention on four axes a mask with as many rows as it has queries."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        shared: dict[tuple[ir.Value, str], ir.Value] = {}
        nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
        changed = [_widen(model.graph, node, shared) for node in nodes]
        return ir.passes.PassResult(model, any(changed))


def _widen(graph: ir.Graph, node: ir.Node, shared: dict[tuple[ir.Value, str], ir.Value]) -> bool:
    mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
    query = node.inputs[_QUERY]
    if mask is None or mask.shape is None or query is None or query.shape is None or len(query.shape) != 4:
        return False
    if len(mask.shape) < 2 or mask.shape[-2] != 1 or query.shape[2] == 1:
        return False
    key = mask, str(query.shape[2])
    if key not in shared:
        shared[key] = _expand(graph, mask, query, node)
    node.replace_input_with(_MASK, shared[key])
    return True


def _expand(graph: ir.Graph, mask: ir.Value, query: ir.Value, user: ir.Node) -> ir.Value:
    """Write the Expand of a mask in front of its first user."""
    assert mask.shape is not None and query.shape is not None
    tokens = _tokens(graph, query)
    ones = ir.Value(
        name=f"{mask.name}_ones", const_value=ir.tensor([1] * (len(mask.shape) - 2), dtype=ir.DataType.INT64)
    )
    last = ir.Value(name=f"{mask.name}_last", const_value=ir.tensor([1], dtype=ir.DataType.INT64))
    for value in (ones, last):
        graph.register_initializer(value)
    shape = ir.Node("", "Concat", [ones, tokens.outputs[0], last], [ir.AttrInt64("axis", 0)])
    expand = ir.Node("", "Expand", [mask, shape.outputs[0]])  # an axis of 1 in the shape leaves the mask's own
    expand.outputs[0].type = mask.type
    expand.outputs[0].shape = ir.Shape([*mask.shape[:-2], query.shape[2], mask.shape[-1]])
    graph.insert_before(user, [tokens, shape, expand])
    return expand.outputs[0]


def _tokens(graph: ir.Graph, query: ir.Value) -> ir.Node:
    """Count the queries, on an input of the model where that has as many: the query's Transpose may then disappear."""
    assert query.shape is not None
    inputs = [value for value in graph.inputs if value.shape is not None and value.shape[1] == query.shape[2]]
    value, axis = (inputs[0], 1) if inputs else (query, 2)
    return ir.Node("", "Shape", [value], [ir.AttrInt64("start", axis), ir.AttrInt64("end", axis + 1)])
