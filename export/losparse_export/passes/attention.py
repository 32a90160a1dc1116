"""Attention on (batch, sequence, hidden): the transposes that split and join heads disappear.

    q -> Reshape(b, s, heads, d) -> Transpose(0, 2, 1, 3) -+
    k -> Reshape                 -> Transpose              +-> Attention -> Transpose(0, 2, 1, 3) -> Reshape -> y
    v -> Reshape                 -> Transpose             -+

    q, k, v -> Attention {q_num_heads, kv_num_heads} -> y

The operator takes both layouts from opset 23 on; with the second it reads heads where they lie.
"""

from __future__ import annotations

import onnx_ir as ir

from ..layer import SCOPE

_SWAP = (0, 2, 1, 3)


class AttentionLayoutPass(ir.passes.InPlacePass):
    """Rewrites every Attention node whose inputs and output are split into heads by Reshape and Transpose."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
        rewritten = [_rewrite(model.graph, node) for node in nodes]
        return ir.passes.PassResult(model, any(rewritten))


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    past = [value for value in node.inputs[4:] if value is not None]
    used = [output for output in node.outputs[1:] if output.uses()]
    joined = _joined_heads(node.outputs[0])
    parts = [_split_heads(value) for value in node.inputs[:3]]
    if past or used or joined is None:
        return False
    whole = [part for part in parts if part is not None]
    if len(whole) != 3:
        return False
    (q, q_heads), (k, kv_heads), (v, _) = whole
    attributes = {name: attribute for name, attribute in node.attributes.items() if name != "qk_matmul_output_mode"}
    new = ir.Node(
        "",
        "Attention",
        [q, k, v, *node.inputs[3:4]],
        [*attributes.values(), ir.AttrInt64("q_num_heads", q_heads), ir.AttrInt64("kv_num_heads", kv_heads)],
        metadata_props={SCOPE: node.metadata_props.get(SCOPE, "")},
    )
    new.outputs[0].type, new.outputs[0].shape = joined.type, joined.shape
    graph.insert_before(node, new)
    joined.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    return True


def _split_heads(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """Return the value before it was split into heads, and their number."""
    transpose = value.producer() if value is not None else None
    if transpose is None or not _is_swap(transpose):
        return None
    view = transpose.inputs[0]
    reshape = view.producer() if view is not None else None
    if view is None or reshape is None or reshape.op_type != "Reshape":
        return None
    whole = reshape.inputs[0]
    if whole is None or whole.shape is None or view.shape is None or len(whole.shape) != 3 or len(view.shape) != 4:
        return None
    heads, width, hidden = view.shape[2], view.shape[3], whole.shape[2]
    same_tokens = list(whole.shape[:2]) == list(view.shape[:2])
    if not (isinstance(heads, int) and isinstance(width, int) and heads * width == hidden and same_tokens):
        return None
    return whole, heads


def _joined_heads(value: ir.Value) -> ir.Value | None:
    """Return the value in which the heads are side by side again, if nothing else reads them apart."""
    for expected in ("Transpose", "Reshape"):
        users = [user for user, _ in value.uses()]
        if len(users) != 1 or users[0].op_type != expected or value.is_graph_output():
            return None
        if expected == "Transpose" and not _is_swap(users[0]):
            return None
        value = users[0].outputs[0]
    return value if value.shape is not None and len(value.shape) == 3 else None


def _is_swap(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == _SWAP
