"""Rotary positions: cosines and sines are made once for all blocks, and stand ready for every text.

    angles (1, s, d / 2) -> Cos -> RotaryEmbedding      one pair for every query and every key of every block

    angles (1, s, d / 2) -> Cos -> Expand (b, s, d / 2) -> RotaryEmbedding, RotaryEmbedding, ...

torch's exporter writes the first, because positions are the same for every text; the operator has no broadcasting, and
onnxruntime refuses it for more than one text. Where every text has positions of its own, each rotation has cosines and
sines of its own in the trace: these become one pair as well.
"""

from __future__ import annotations

import onnx_ir as ir


class RotaryPass(ir.passes.InPlacePass):
    """Gives every RotaryEmbedding its cosines and sines in the number of texts."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        shared: dict[tuple[ir.Value, str], ir.Value] = {}
        nodes = [node for node in model.graph if node.op_type == "RotaryEmbedding" and node.domain == ""]
        changed = [_rewrite(model.graph, node, place, shared) for node in nodes for place in (1, 2)]
        return ir.passes.PassResult(model, any(changed))


def _rewrite(graph: ir.Graph, node: ir.Node, place: int, shared: dict[tuple[ir.Value, str], ir.Value]) -> bool:
    """Read the shared cosines (place 1) or sines (place 2) instead of the node's own."""
    own, rotated = node.inputs[place], node.inputs[0]
    function = None if own is None else own.producer()
    if function is None or rotated is None or rotated.shape is None or len(node.inputs) > 3:
        return False
    angles = function.inputs[0]
    if function.op_type not in ("Cos", "Sin") or angles is None or angles.shape is None or rotated.shape[0] == 1:
        return False
    key = angles, function.op_type
    if key not in shared:
        shared[key] = _for_every_text(graph, function, node) if angles.shape[0] == 1 else function.outputs[0]
    if own is shared[key]:
        return False
    node.replace_input_with(place, shared[key])
    return True


def _for_every_text(graph: ir.Graph, function: ir.Node, user: ir.Node) -> ir.Value:
    """Write the Expand of cosines or sines in front of their first user."""
    angles, made, rotated = function.inputs[0], function.outputs[0], user.inputs[0]
    assert angles is not None and angles.shape is not None and rotated is not None and rotated.shape is not None
    # Counted on an input of the model where that has as many: read off the query, it would keep a Transpose alive.
    inputs = [value for value in graph.inputs if value.shape is not None and value.shape[0] == rotated.shape[0]]
    texts = ir.Node("", "Shape", [(inputs or [rotated])[0]], [ir.AttrInt64("start", 0), ir.AttrInt64("end", 1)])
    ones = ir.Value(name=f"{made.name}_ones", const_value=ir.tensor([1, 1], dtype=ir.DataType.INT64))
    graph.register_initializer(ones)
    shape = ir.Node("", "Concat", [texts.outputs[0], ones], [ir.AttrInt64("axis", 0)])
    expand = ir.Node("", "Expand", [made, shape.outputs[0]])
    expand.outputs[0].type = rotated.type
    expand.outputs[0].shape = ir.Shape([rotated.shape[0], *angles.shape[1:]])
    graph.insert_before(user, [texts, shape, expand])
    return expand.outputs[0]
