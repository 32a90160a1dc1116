"""Attention over a cache, in place: keys and values of earlier tokens are neither copied nor repeated for every head.

    past key (b, kv, p, d) ---+
    k -> heads -> steps -> Concat -> present key (b, kv, p + s, d) -> [Expand to all heads] -+
    v -> heads ----------> Concat -> present value ---------------> [Expand to all heads] -+ |
    q -> heads -> steps -------------------------------------------------------------------+-+-> Attention -> y
                                                       mask (b, 1, s, p + s) ----------------+
    becomes

    q -> steps, k -> steps, v, past key, past value, ends, total, bias -> GroupQueryAttention -> y, present key, value

Bound to one buffer as past and present, the operator writes what is new behind what is there. With Concat and Expand a
step takes 1.6 times as long after 512 tokens. Where the new tokens of a text go is read off the mask, whose last 1 is
the newest token: padding may be on the left, where a bias hides it, or on the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from losparse_runtime.contract.tensors import present_of, role_of

from ..graph.constants import add_constant, new_node
from ..graph.marks import inherit
from .attention import SWAP, Heads, before_repeat, joined_heads, split_heads
from .cache_masks import MaskReader

CACHED_ATTENTION, MICROSOFT = "GroupQueryAttention", "com.microsoft"

# Added to the scores of what a text does not see: nothing is left of it after the softmax, in half precision too.
_HIDDEN = -3e4


@dataclass(frozen=True)
class _Cached:
    """What an Attention node with a cache is made of.

    Attributes:
        sides: queries, new keys and new values, which know how to be written side by side.
        pasts: keys and values of earlier tokens.
        presents: keys and values of all of them.
        window: how many tokens each sees, itself included; None for all before it.
    """

    sides: tuple[_Side, _Side, _Side]
    pasts: tuple[ir.Value, ir.Value]
    presents: tuple[ir.Value, ir.Value]
    window: int | None


@dataclass(frozen=True)
class _Side:
    """Queries, new keys or new values.

    Attributes:
        apart: (batch, heads, sequence, width), as the trace has them.
        heads: how they came about, where a Transpose put heads in front of tokens; None for other ways.
    """

    apart: ir.Value
    heads: Heads | None

    @property
    def count(self) -> int:
        """Heads."""
        return self._size(1)

    @property
    def width(self) -> int:
        """Features of a head."""
        return self._size(3)

    def _size(self, axis: int) -> int:
        size = self.apart.shape[axis] if self.apart.shape is not None else None
        return size if isinstance(size, int) else 0

    def side_by_side(self, graph: ir.Graph, before: ir.Node) -> ir.Value:
        """Write what the operator reads; (batch, sequence, heads * width)."""
        if self.heads is not None:
            return self.heads.side_by_side(graph, before)
        assert self.apart.shape is not None
        swapped = new_node(graph, before, "Transpose", [self.apart], like=self.apart, scope=before, perm=SWAP)
        hidden = self.count * self.width
        sizes = add_constant(graph, f"heads_together_{hidden}", np.array([0, 0, hidden]))
        whole = new_node(graph, before, "Reshape", [swapped, sizes], like=self.apart, scope=before)
        batch, _, tokens, _ = self.apart.shape
        swapped.shape = ir.Shape([batch, tokens, self.count, self.width])
        whole.shape = ir.Shape([batch, tokens, hidden])
        return whole


class CachedAttentionPass(ir.passes.InPlacePass):
    """Rewrites every Attention node that reads a cache, where all of a model can be: a graph has one kind of cache."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        graph = model.graph
        mask = next((value for value in graph.inputs if role_of(value.name or "") == "mask"), None)
        pasts = [value for value in graph.inputs if present_of(value.name or "") is not None]
        nodes = [node for node in graph if node.op_type == "Attention" and node.domain == ""]
        if mask is None or not pasts:
            return ir.passes.PassResult(model, False)
        reader = MaskReader(model)
        found = {node: _recognise(node, reader) for node in nodes}
        cached = {node: each for node, each in found.items() if each is not None}
        if 2 * len(cached) != len(pasts):
            return ir.passes.PassResult(model, False)
        shared = _Shared.of(graph, mask)
        for node, each in cached.items():
            _rewrite(graph, node, each, shared)
        model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, True)


def _recognise(node: ir.Node, reader: MaskReader) -> _Cached | None:
    """Return the parts of a node with a cache; None for another one, or for one that the operator cannot do."""
    query = _side(node.inputs[0])
    key, value = (_cached_side(value) for value in node.inputs[1:3])
    if query is None or key is None or value is None or any(output.uses() for output in node.outputs[1:]):
        return None
    (new_key, past_key, present_key), (new_value, past_value, present_value) = key, value
    same = new_key.count == new_value.count and new_key.width == new_value.width == query.width
    read = reader.window(node.inputs[3] if len(node.inputs) > 3 else None)
    if not same or not read.causal:
        return None
    pasts, presents = (past_key, past_value), (present_key, present_value)
    return _Cached((query, new_key, new_value), pasts, presents, read.window)


def _side(value: ir.Value | None) -> _Side | None:
    """Take heads of known number and width."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    side = _Side(value, split_heads(value))
    return side if side.count and side.width else None


def _cached_side(value: ir.Value | None) -> tuple[_Side, ir.Value, ir.Value] | None:
    """Return the new heads of keys or values, what they are put behind, and what that gives."""
    present = before_repeat(value) or value
    concat = present.producer() if present is not None else None
    if present is None or concat is None or concat.op_type != "Concat" or len(concat.inputs) != 2:
        return None
    past, new = concat.inputs
    side = _side(new)
    if past is None or side is None or concat.attributes.get_int("axis", 0) not in (2, -2):
        return None
    given = past.is_graph_input() and present.is_graph_output() and present_of(past.name or "") == present.name
    return (side, past, present) if given else None


@dataclass(frozen=True)
class _Shared:
    """What all nodes of a graph read of its mask.

    Attributes:
        ends: place of the newest token of every text; int32 (batch,).
        total: tokens in all; int32 ().
        bias: what is added to the scores; (batch, 1, sequence, past+sequence).
    """

    ends: ir.Value
    total: ir.Value
    bias: ir.Value

    @classmethod
    def of(cls, graph: ir.Graph, mask: ir.Value) -> _Shared:
        """Write it at the beginning of the graph."""
        tokens = next(value for value in graph.inputs if role_of(value.name or "") == "tokens")
        whole, number = int(ir.DataType.INT32), int(ir.DataType.FLOAT)
        one = add_constant(graph, "mask_one", np.array(1, np.int32))
        hidden = add_constant(graph, "mask_hidden", np.array(_HIDDEN, np.float32))
        axis = add_constant(graph, "mask_axis", np.array([0], np.int64))
        axes = add_constant(graph, "mask_axes", np.array([1, 2], np.int64))
        ones = add_constant(graph, "mask_ones", np.array([1, 1], np.int64))
        last = add_constant(graph, "mask_last", np.array([1], np.int64))
        real = ir.node("Cast", [mask], {"to": whole})
        ends = ir.node("ArgMax", [real.outputs[0]], {"axis": 1, "keepdims": 0, "select_last_index": 1})
        ends32 = ir.node("Cast", [ends.outputs[0]], {"to": whole})
        size = ir.node("Shape", [mask], {"start": 1, "end": 2})
        count = ir.node("Squeeze", [size.outputs[0], axis])
        total = ir.node("Cast", [count.outputs[0]], {"to": whole})
        padding = ir.node("Sub", [one, real.outputs[0]])
        padding_float = ir.node("Cast", [padding.outputs[0]], {"to": number})
        scaled = ir.node("Mul", [padding_float.outputs[0], hidden])
        lifted = ir.node("Unsqueeze", [scaled.outputs[0], axes])
        queries = ir.node("Shape", [tokens], {"start": 1, "end": 2})
        shape = ir.node("Concat", [ones, queries.outputs[0], last], {"axis": 0})
        bias = ir.node("Expand", [lifted.outputs[0], shape.outputs[0]])
        nodes = [real, ends, ends32, size, count, total, padding, padding_float, scaled, lifted, queries, shape, bias]
        graph.insert_before(graph[0], nodes)
        ends32.outputs[0].type = total.outputs[0].type = ir.TensorType(ir.DataType.INT32)
        bias.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        return cls(ends32.outputs[0], total.outputs[0], bias.outputs[0])


def _rewrite(graph: ir.Graph, node: ir.Node, parts: _Cached, shared: _Shared) -> None:
    query, key, _ = parts.sides
    sides = [part.side_by_side(graph, node) for part in parts.sides]
    attributes = [ir.AttrInt64("num_heads", query.count), ir.AttrInt64("kv_num_heads", key.count)]
    attributes += [node.attributes[name] for name in ("scale", "softcap") if name in node.attributes]
    if parts.window is not None:
        attributes.append(ir.AttrInt64("local_window_size", parts.window))
    inputs = [*sides, *parts.pasts, shared.ends, shared.total, None, None, None, shared.bias]
    new = inherit(ir.Node(MICROSOFT, CACHED_ATTENTION, inputs, attributes, num_outputs=3), node)
    output, *presents = new.outputs
    output.type, output.shape = node.outputs[0].type, sides[0].shape
    graph.insert_before(node, new)
    _hand_on(graph, node, output, query)
    for old, present in zip(parts.presents, presents, strict=True):
        present.type, present.shape = old.type, old.shape
        # What else reads the old value - the Expand to all heads - is read by nothing any more.
        graph.outputs[list(graph.outputs).index(old)] = present
        present.name, old.name = old.name, None


def _hand_on(graph: ir.Graph, node: ir.Node, output: ir.Value, query: _Side) -> None:
    """Let what reads the old node read the new one, which has its heads side by side."""
    joined = joined_heads(node.outputs[0])
    if joined is not None:
        joined.replace_all_uses_with(output, replace_graph_outputs=True)
        return
    sizes = add_constant(graph, f"heads_apart_{query.count}", np.array([0, 0, query.count, query.width]))
    apart = new_node(graph, node, "Reshape", [output, sizes], like=node.outputs[0], scope=node)
    swapped = new_node(graph, node, "Transpose", [apart], like=node.outputs[0], scope=node, perm=SWAP)
    if output.shape is not None:
        apart.shape = ir.Shape([*output.shape[:2], query.count, query.width])
    node.outputs[0].replace_all_uses_with(swapped, replace_graph_outputs=True)
