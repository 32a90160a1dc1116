"""Attention on (batch, sequence, hidden): the transposes that split and join heads disappear.

    q -> Reshape(b, s, heads, d) -> Transpose(0, 2, 1, 3) -> steps ------------------+
    k -> Reshape                 -> Transpose             -> steps -> [heads again] -+-> Attention -+
    v -> Reshape                 -> Transpose             ----------> [heads again] -+              |
                                                         y <- Reshape <- Transpose(0, 2, 1, 3) <----+
    becomes

    q -> steps -+
    k -> steps -+-> Attention {q_num_heads, kv_num_heads} -> y
    v ----------+

Steps treat every head alike: a norm of its own, a constant factor, the rotation by its position. Attention and rotation
take both layouts from opset 23 on; with the second they read heads where they lie. Keys and values of grouped attention
are repeated by the operator. What is in brackets may be missing; where heads come from anything else than a Reshape - a
part of one product for all three - they are put side by side by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph.constants import add_constant, new_node
from ..graph.marks import inherit

SWAP = (0, 2, 1, 3)
_NORMS = ("LayerNormalization", "RMSNormalization")


class AttentionLayoutPass(ir.passes.InPlacePass):
    """Rewrites every Attention node whose inputs and output are split into heads by Transpose."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
        rewritten = [_rewrite(model.graph, node) for node in nodes]
        return ir.passes.PassResult(model, any(rewritten))


@dataclass(frozen=True)
class Heads:
    """What an input of attention is made from.

    Attributes:
        apart: (batch, sequence, heads, d), in front of the Transpose.
        whole: (batch, sequence, heads * d), where a Reshape split it; None where something else wrote the heads.
        steps: nodes between the Transpose and attention, in their order.
    """

    apart: ir.Value
    whole: ir.Value | None
    steps: tuple[ir.Node, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        assert self.apart.shape is not None
        return int(self.apart.shape[2])  # type: ignore[arg-type]

    @property
    def width(self) -> int:
        """Features of each."""
        assert self.apart.shape is not None
        return int(self.apart.shape[3])  # type: ignore[arg-type]

    def side_by_side(self, graph: ir.Graph, before: ir.Node) -> ir.Value:
        """Write what attention reads; (batch, sequence, heads * d)."""
        norms = any(step.op_type in _NORMS for step in self.steps)
        value = self.apart if norms or self.whole is None else self.whole
        for step in self.steps:
            attributes = dict(step.attributes)
            if step.op_type == "RotaryEmbedding":
                value = self._joined(graph, before, value)
                attributes["num_heads"] = ir.AttrInt64("num_heads", self.count)
            inputs = [value, *step.inputs[1:]]
            new = inherit(ir.Node("", step.op_type, inputs, list(attributes.values())), step)
            new.outputs[0].type, new.outputs[0].shape = value.type, value.shape
            graph.insert_before(before, new)
            value = new.outputs[0]
        return self._joined(graph, before, value)

    def _joined(self, graph: ir.Graph, before: ir.Node, value: ir.Value) -> ir.Value:
        """Put heads side by side, unless they are."""
        shape = value.shape
        assert shape is not None
        if len(shape) == 3:
            return value
        hidden = self.count * int(shape[3])  # type: ignore[arg-type]
        sizes = add_constant(graph, f"heads_together_{hidden}", np.array([0, 0, hidden]))
        whole = new_node(graph, before, "Reshape", [value, sizes], like=value, scope=before)
        whole.shape = ir.Shape([*shape[:2], hidden])
        return whole


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    past = [value for value in node.inputs[4:] if value is not None]
    used = [output for output in node.outputs[1:] if output.uses()]
    joined = joined_heads(node.outputs[0])
    query = split_heads(node.inputs[0])
    heads = [split_heads(before_repeat(value) or value) for value in node.inputs[1:3]]
    if past or used or joined is None or query is None:
        return False
    key, value = heads
    if key is None or value is None or key.count != value.count:
        return False
    attributes = {name: attribute for name, attribute in node.attributes.items() if name != "qk_matmul_output_mode"}
    new = ir.Node(
        "",
        "Attention",
        [*(part.side_by_side(graph, node) for part in (query, key, value)), *node.inputs[3:4]],
        [*attributes.values(), ir.AttrInt64("q_num_heads", query.count), ir.AttrInt64("kv_num_heads", key.count)],
    )
    inherit(new, node)
    new.outputs[0].type, new.outputs[0].shape = joined.type, joined.shape
    graph.insert_before(node, new)
    joined.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    return True


def before_repeat(value: ir.Value | None) -> ir.Value | None:
    """Return (batch, heads, sequence, d) in front of Unsqueeze, Expand, Reshape that repeat every head in its place."""
    repeated = value
    for expected, axes in (("Reshape", 4), ("Expand", 5), ("Unsqueeze", 5)):
        node = value.producer() if value is not None else None
        if value is None or node is None or node.op_type != expected or value.shape is None or len(value.shape) != axes:
            return None
        value = node.inputs[0]
    if value is None or value.shape is None or len(value.shape) != 4 or repeated is None or repeated.shape is None:
        return None
    one, many = value.shape, repeated.shape
    unsqueezed = _shape_of(repeated, 2)
    counts = isinstance(one[1], int) and isinstance(many[1], int) and many[1] % one[1] == 0
    in_place = unsqueezed is not None and list(unsqueezed) == [one[0], one[1], 1, one[2], one[3]]
    same = (one[0], one[2], one[3]) == (many[0], many[2], many[3])
    return value if counts and in_place and same else None


def _shape_of(value: ir.Value, back: int) -> ir.Shape | None:
    """Return the shape of what lies some nodes before a value."""
    for _ in range(back):
        node = value.producer()
        before = node.inputs[0] if node is not None else None
        if before is None:
            return None
        value = before
    return value.shape


def split_heads(value: ir.Value | None) -> Heads | None:
    """Recognise heads that a Transpose put in front of the sequence, and what is done to each behind it."""
    node = value.producer() if value is not None else None
    steps: list[ir.Node] = []
    while node is not None and _is_step(node, steps):
        steps.insert(0, node)
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    apart = node.inputs[0] if node is not None and _is_swap(node) else None
    if apart is None or apart.shape is None or len(apart.shape) != 4:
        return None
    if not isinstance(apart.shape[2], int) or not isinstance(apart.shape[3], int):
        return None
    return Heads(apart, _whole(apart), tuple(steps))


def _is_step(node: ir.Node, later: list[ir.Node]) -> bool:
    """Tell whether a node may be done before the Transpose; `later` are the steps behind it."""
    normed_later = any(step.op_type in _NORMS for step in later)
    if node.domain != "" or len(node.outputs) != 1:
        return False
    if node.op_type == "RotaryEmbedding":
        return not normed_later  # the rotated heads are side by side, and a norm needs them apart
    if node.op_type in _NORMS:
        return node.attributes.get_int("axis", -1) in (-1, 3)
    if node.op_type not in ("Mul", "Div"):
        return False
    factor = node.inputs[1]
    return factor is not None and factor.const_value is not None and factor.const_value.size == 1


def _whole(apart: ir.Value) -> ir.Value | None:
    """Return the value that a Reshape split into heads."""
    reshape = apart.producer()
    whole = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
    if whole is None or whole.shape is None or apart.shape is None or len(whole.shape) != 3:
        return None
    hidden = apart.shape[2] * apart.shape[3]
    return whole if list(whole.shape) == [*apart.shape[:2], hidden] else None


def joined_heads(value: ir.Value) -> ir.Value | None:
    """Return the value in which the heads are side by side again, if nothing else reads them apart."""
    value = _after_nothing(value)
    for expected in ("Transpose", "Reshape"):
        users = [user for user, _ in value.uses()]
        if len(users) != 1 or users[0].op_type != expected or value.is_graph_output():
            return None
        if expected == "Transpose" and not _is_swap(users[0]):
            return None
        value = users[0].outputs[0]
    return value if value.shape is not None and len(value.shape) == 3 else None


def _after_nothing(value: ir.Value) -> ir.Value:
    """Step over a Reshape to the shape that a value has."""
    users = [user for user, _ in value.uses()]
    if len(users) != 1 or users[0].op_type != "Reshape" or value.is_graph_output() or value.shape is None:
        return value
    same = users[0].outputs[0]
    return same if same.shape is not None and list(same.shape) == list(value.shape) else value


def _is_swap(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == SWAP
