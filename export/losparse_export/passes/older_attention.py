"""Attention and rotary positions in the operators of opset 18.

    q (b, s, heads d) -> Reshape -> Transpose -> * scale -----+
    k (b, t, heads d) -> Reshape -> Transpose -> Transpose ---+-> MatMul -> + mask -> Softmax -+-> MatMul -> Transpose
    v (b, t, heads d) -> Reshape -> Transpose ------------------------------------------------+     -> Reshape -> y

Several query heads that share a key head become rows of one product with it, so that no key is copied. What a mask of
truth values adds to the scores is computed once for all blocks that read it, and so is that of a causal mask.

    x (.., d) -> x * [cos cos] + [x2 x1] * [-sin sin]         with x1, x2 the halves of the rotated dimensions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ..graph.constants import add_constant, new_node
from ..graph.marks import inherit

_SWAP = (0, 2, 1, 3)

# What a mask adds to the score of a token that is not seen. Not minus infinity: a row without any token would become
# NaN. onnxruntime's Attention takes the same number.
_LOWEST = np.array(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Writing:
    """Inserts nodes in front of the one that they stand for."""

    graph: ir.Graph
    node: ir.Node

    def add(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Insert a standard node; what it writes is of the type of the node's output, and of any shape."""
        value = new_node(
            self.graph, self.node, op_type, inputs, like=self.node.outputs[0], scope=self.node, **attributes
        )
        value.shape = None
        return value

    def integers(self, name: str, *numbers: int) -> ir.Value:
        """Store whole numbers; (count,)."""
        return add_constant(self.graph, f"{name}_{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def reshape(self, value: ir.Value, *sizes: int) -> ir.Value:
        """Insert a Reshape to sizes, of which 0 leaves an axis as it is."""
        return self.add("Reshape", value, self.integers("sizes", *sizes))

    def integer(self, name: str, number: int) -> ir.Value:
        """Store one whole number, without an axis."""
        return add_constant(self.graph, name, np.array(number, np.int64))

    def split(self, value: ir.Value, *widths: int) -> list[ir.Value]:
        """Cut the last axis into parts of these widths."""
        sizes = self.integers("widths", *widths)
        node = inherit(ir.node("Split", [value, sizes], {"axis": -1}, num_outputs=len(widths)), self.node)
        for output in node.outputs:
            output.type = value.type
        self.graph.insert_before(self.node, node)
        return list(node.outputs)


@dataclass(frozen=True)
class _Heads:
    """An input of attention; (batch, count, tokens, width)."""

    value: ir.Value
    count: int
    width: int


@dataclass
class AttentionWriter:
    """Writes Attention nodes of one graph.

    Attributes:
        masks: what was written for masks, by the mask and how it is used.
    """

    masks: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def __call__(self, graph: ir.Graph, node: ir.Node) -> ir.Value | None:
        """Write one; None where it has a cache, a soft cap or further outputs, which no trace has."""
        writing = _Writing(graph, node)
        others = [*node.inputs[4:], *(output for output in node.outputs[1:] if output.uses())]
        if any(value is not None for value in others) or node.attributes.get_float("softcap", 0.0) != 0.0:
            return None
        query, keys, values = (_heads(writing, place) for place in range(3))
        together = _axes(node.inputs[0]) == 3
        scale = node.attributes.get_float("scale", query.width**-0.5)
        rows = writing.add("Mul", query.value, add_constant(graph, "attention_scale", np.array(scale, np.float32)))
        grouped = query.count != keys.count
        if grouped:
            rows = writing.reshape(rows, 0, keys.count, -1, query.width)
        scores = writing.add("MatMul", rows, writing.add("Transpose", keys.value, perm=(0, 1, 3, 2)))
        mask = self._mask(writing)
        if mask is not None:
            apart = writing.reshape(scores, 0, query.count, -1, 0) if grouped else scores
            masked = writing.add("Add", apart, mask)
            scores = writing.reshape(masked, 0, keys.count, -1, 0) if grouped else masked
        y = writing.add("MatMul", writing.add("Softmax", scores, axis=-1), values.value)
        if grouped:
            y = writing.reshape(y, 0, query.count, -1, values.width)
        if together:
            y = writing.reshape(writing.add("Transpose", y, perm=_SWAP), 0, 0, query.count * values.width)
        y.shape = node.outputs[0].shape
        return y

    def _mask(self, writing: _Writing) -> ir.Value | None:
        """Return what is added to the scores; (b or 1, heads or 1, s or 1, t), None for nothing."""
        mask = writing.node.inputs[3] if len(writing.node.inputs) > 3 else None
        parts = [] if mask is None else [self._added(writing, mask)]
        if writing.node.attributes.get_int("is_causal", 0):
            parts.append(self._causal(writing))
        if len(parts) < 2:
            return parts[0] if parts else None
        return self._once(("both", *parts), lambda: writing.add("Add", *parts))

    def _added(self, writing: _Writing, mask: ir.Value) -> ir.Value:
        if mask.dtype != ir.DataType.BOOL:
            return mask
        zero = add_constant(writing.graph, "mask_zero", np.array(0.0, np.float32))
        lowest = add_constant(writing.graph, "mask_lowest", _LOWEST)
        return self._once((mask,), lambda: writing.add("Where", mask, zero, lowest))

    def _causal(self, writing: _Writing) -> ir.Value:
        """Return the lowest number above the diagonal, and 0 elsewhere; (s, t)."""
        query, key = writing.node.inputs[:2]
        assert query is not None and key is not None and query.shape is not None and key.shape is not None
        axis = len(query.shape) - 2

        def write() -> ir.Value:
            sizes = [writing.add("Shape", value, start=axis, end=axis + 1) for value in (query, key)]
            shape = writing.add("Concat", *sizes, axis=0)
            for value in (*sizes, shape):
                value.type = ir.TensorType(ir.DataType.INT64)
            lowest = writing.add("ConstantOfShape", shape, value=ir.tensor(_LOWEST[None]))
            return writing.add("Trilu", lowest, writing.integer("above", 1), upper=1)

        return self._once(("causal", *(_named(value, axis) for value in (query, key))), write)

    def _once(self, key: tuple[object, ...], write: Callable[[], ir.Value]) -> ir.Value:
        if key not in self.masks:
            self.masks[key] = write()
        return self.masks[key]


@dataclass
class RotaryWriter:
    """Writes RotaryEmbedding nodes of one graph.

    Attributes:
        factors: what was written for cosines and sines, by those and where the heads lie.
    """

    factors: dict[tuple[ir.Value, bool, int], ir.Value] = field(default_factory=dict)

    def __call__(self, graph: ir.Graph, node: ir.Node) -> ir.Value | None:
        """Write one; None where positions index the cosines, or neighbours rotate, which no trace has."""
        if len(node.inputs) > 3 or node.attributes.get_int("interleaved", 0) == 1:
            return None
        writing = _Writing(graph, node)
        x, count = node.inputs[0], node.attributes.get_int("num_heads", 0)
        assert x is not None, "the operator turns something"
        together = _axes(x) == 3
        width = _size(x, -1) // (count if together else 1)
        turned = node.attributes.get_int("rotary_embedding_dim", 0) or width
        whole = writing.reshape(x, 0, 0, count, width) if together else x
        parts = writing.split(whole, turned, width - turned) if turned < width else [whole]
        cosines, sines = (self._factor(writing, place, 2 if together else 1) for place in (1, 2))
        swapped = writing.add("Concat", *reversed(writing.split(parts[0], turned // 2, turned // 2)), axis=-1)
        turned_part = writing.add("Add", writing.add("Mul", parts[0], cosines), writing.add("Mul", swapped, sines))
        y = writing.add("Concat", turned_part, *parts[1:], axis=-1) if parts[1:] else turned_part
        if together:
            y = writing.reshape(y, 0, 0, count * width)
        y.shape = node.outputs[0].shape
        return y

    def _factor(self, writing: _Writing, place: int, axis: int) -> ir.Value:
        """Return cosines (place 1), or sines with their signs (place 2), for whole heads, with an axis for those."""
        given = writing.node.inputs[place]
        assert given is not None, "the operator has both"
        key = given, place == 2, axis
        if key not in self.factors:
            first = writing.add("Neg", given) if place == 2 else given
            both = writing.add("Concat", first, given, axis=-1)
            self.factors[key] = writing.add("Unsqueeze", both, writing.integers("heads", axis))
        return self.factors[key]


def _heads(writing: _Writing, place: int) -> _Heads:
    """Put the heads of an input of attention in front of its tokens, where they are side by side."""
    value = writing.node.inputs[place]
    assert value is not None, "attention has three inputs"
    if _axes(value) == 4:
        return _Heads(value, _size(value, 1), _size(value, 3))
    count = writing.node.attributes["q_num_heads" if place == 0 else "kv_num_heads"].as_int()
    width = _size(value, 2) // count
    return _Heads(writing.add("Transpose", writing.reshape(value, 0, 0, count, width), perm=_SWAP), count, width)


def _axes(value: ir.Value | None) -> int:
    assert value is not None and value.shape is not None, "the passes know the axes of what attention reads"
    return len(value.shape)


def _size(value: ir.Value | None, axis: int) -> int:
    assert value is not None and value.shape is not None
    size = value.shape[axis]
    assert isinstance(size, int), "heads and their widths are known"
    return size


def _named(value: ir.Value, axis: int) -> object:
    """Return something that is equal for axes of the same size."""
    size = None if value.shape is None else value.shape[axis]
    name = size if isinstance(size, int) or size is None else size.value
    return value if name is None else name
