"""Follow a feature axis through a graph: everything that keeps its features apart and in order.

A region is a set of values whose last axis is the same list of features: it begins where nodes of one kind write them,
ends where nodes of another kind read them, and in between there are only nodes that treat every feature alone -
elementwise ones, reshapes of the axes before - and, if asked for, attention, which keeps the dimensions of a head
together. Whatever else touches a value blocks the region, with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from .site import Site

UNARY = frozenset(("Abs", "Cast", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"))
UNARY |= {"Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Swish", "Tanh"}
BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Pow"))

Use = tuple[ir.Node, int]


@dataclass
class Region:
    """One list of features; see the module.

    Attributes:
        width: features.
        blocks: equal parts within which features belong together: heads, or 1.
        values: the values that hold them.
        nodes: the nodes between them.
        sources: where they are written.
        sinks: where they are read, with the place of the input.
        constants: vectors of one number a feature, with the node and the place where they are read.
        sites: attention that the features go through, or meet in.
        blocked: why the features cannot be put in another order, or None.
    """

    width: int
    blocks: int = 1
    values: list[ir.Value] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)
    sources: list[ir.Node] = field(default_factory=list)
    sinks: list[Use] = field(default_factory=list)
    constants: list[Use] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    blocked: str | None = None


class Walker:
    """Finds regions.

    Args:
        is_source: tells whether a node writes features that a region may begin with.
        is_sink: tells whether a node reads them at a place of its inputs, so that a region may end there.
        through_attention: whether a region of values goes on through attention, and queries and keys meet in it.
    """

    def __init__(
        self,
        is_source: Callable[[ir.Node], bool],
        is_sink: Callable[[ir.Node, int], bool],
        *,
        through_attention: bool = False,
    ) -> None:
        self._is_source, self._is_sink = is_source, is_sink
        self._through_attention = through_attention

    def find(self, start: ir.Value) -> Region | None:
        """Return the region a value belongs to; None where its number of features is not known."""
        width = _last(start)
        if width is None:
            return None
        region, waiting = Region(width), [start]
        while waiting:
            value = waiting.pop()
            if value in region.values:
                continue
            region.values.append(value)
            if value.is_graph_output():
                self._block(region, "it is an output of the model")
            producer = value.producer()
            if producer is None:
                self._block(region, "it is an input of the model or a constant")
            else:
                waiting += self._visit(region, producer, None, value)
            for user, index in value.uses():
                waiting += self._visit(region, user, index, value)
        return region

    def _visit(self, region: Region, node: ir.Node, index: int | None, value: ir.Value) -> list[ir.Value]:
        """Note a node that writes (index None) or reads a value; returns the values that share its features."""
        if index is None and self._is_source(node):
            return self._note(region.sources, node)
        if index is not None and self._is_sink(node, index):
            return self._note(region.sinks, (node, index))
        if node in region.nodes and node.op_type != "Attention":
            return []
        reached = self._reach(region, node, index, value)
        if reached is None:
            self._block(region, f"it is {'written' if index is None else 'read'} by {node.op_type}")
            return []
        if node not in region.nodes:
            region.nodes.append(node)
        return reached

    def _reach(self, region: Region, node: ir.Node, index: int | None, value: ir.Value) -> list[ir.Value] | None:
        if node.domain == "" and node.op_type in UNARY and index in (None, 0):
            return [_input(node, 0), node.outputs[0]]
        if node.domain == "" and node.op_type in BINARY:
            return self._reach_binary(region, node)
        if node.domain == "" and node.op_type == "Reshape" and index in (None, 0):
            ends = [_input(node, 0), node.outputs[0]]
            return ends if _last(ends[0]) == _last(ends[1]) == region.width else None
        if node.domain == "" and node.op_type == "Attention" and self._through_attention:
            return self._reach_attention(region, node, index)
        return None

    def _reach_binary(self, region: Region, node: ir.Node) -> list[ir.Value] | None:
        reached = [node.outputs[0]]
        if _last(node.outputs[0]) != region.width:
            return None
        for place, operand in enumerate(node.inputs):
            if operand is None:
                return None
            if operand.const_value is None:
                if _last(operand) != region.width:
                    return None  # a number for each token, say: harmless, but it does not occur
                reached.append(operand)
            elif operand.const_value.size != 1:
                if _last(operand) != region.width:
                    return None
                self._note(region.constants, (node, place))
        return reached

    def _reach_attention(self, region: Region, node: ir.Node, index: int | None) -> list[ir.Value] | None:
        heads = node.attributes.get_int("q_num_heads", 0)
        if not heads or heads != node.attributes.get_int("kv_num_heads", 0):
            return None  # four axes, or several query heads for one key head
        if region.blocks not in (1, heads):
            return None
        region.blocks, site = heads, Site(node)
        self._note(region.sites, site)
        scores, values = [site.query, site.key], [site.value, site.output]
        if set(scores) & set(values):
            return None  # one value for both: queries and keys may be reordered in pairs, values only with the output
        if index in (0, 1):
            return scores
        return values if index in (None, 2) else None

    @staticmethod
    def _note(noted: list, item: object) -> list[ir.Value]:  # type: ignore[type-arg]
        if item not in noted:
            noted.append(item)
        return []

    @staticmethod
    def _block(region: Region, reason: str) -> None:
        region.blocked = region.blocked or reason


def _input(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    assert value is not None, "the first inputs of these nodes are not optional"
    return value


def _last(value: ir.Value) -> int | None:
    """Return the size of the last axis, where it is known."""
    if value.shape is None or not len(value.shape):
        return None
    last = value.shape[-1]
    return last if isinstance(last, int) else None
