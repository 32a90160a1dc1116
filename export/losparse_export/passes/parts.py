"""Outputs of several layers that are put side by side and taken apart again are read directly.

    q -+                                         +-> Transpose -> attention
    k -+-> Concat -> Reshape(b, s, 3, heads, d) -+-> Transpose -> attention     ->     q -> Reshape -> Transpose -> ...
    v -+                                         +-> Transpose -> attention

Models that keep query, key and value (or gate and up) as one product split its output, each in its own way: one after
another, or head by head. So nothing is known of the way here: every feature is followed by its number through whatever
moves features alone, and where all those of one layer have come together in their order, they are read from that layer.
What is computed is the same, number by number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from ..graph.constants import add_constant, new_node, replace_value
from ..graph.node import Places

_LEADING = 2
"""Axes of texts and tokens."""


class ReadPartsPass(ir.passes.InPlacePass):
    """Lets what reads one input of a Concat alone read that input."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        changed = False
        for node in tuple(model.graph):
            joined = _joined(node)
            if joined is not None:
                parts, view = joined
                for found, part in list(_reached(view, parts)):
                    _read(model.graph, node, found, parts[part])
                    changed = True
        return ir.passes.PassResult(model, changed)


@dataclass(frozen=True)
class _View:
    """A value that holds features of the parts, somehow ordered.

    Attributes:
        value: in the graph.
        axes: of every axis which leading one it is, -1 for axes of features.
        features: numbers of the features, counted through all parts; the axes are those of features.
    """

    value: ir.Value
    axes: tuple[int, ...]
    features: Places

    def at(self, axis: int) -> int | None:
        """Return the place of an axis among those of features; None of a leading one."""
        axis = axis % len(self.axes)
        return None if self.axes[axis] >= 0 else sum(place < 0 for place in self.axes[:axis])

    @property
    def in_order(self) -> bool:
        """Whether the leading axes stand in front, as at first."""
        return self.axes[:_LEADING] == tuple(range(_LEADING)) and max(self.axes[_LEADING:], default=-1) < 0


def _joined(node: ir.Node) -> tuple[list[ir.Value], _View] | None:
    """Recognise a Concat of features; returns its parts, with features on one axis, and what it writes."""
    if (node.domain, node.op_type) != ("", "Concat") or len(node.inputs) < 2:
        return None
    shape = node.outputs[0].shape
    if shape is None or len(shape) <= _LEADING or node.attributes["axis"].as_int() not in (-1, len(shape) - 1):
        return None
    parts, numbers, count = [], [], 0
    for value in node.inputs:
        sizes = _sizes(value)
        if value is None or sizes is None or value.const_value is not None:
            return None
        numbers.append(count + np.arange(prod(sizes)).reshape(sizes))
        count += prod(sizes)
        parts.append(_before_reshape(value))
    features = np.concatenate(numbers, axis=-1)
    return parts, _View(node.outputs[0], (*range(_LEADING), *([-1] * features.ndim)), features)


def _sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the sizes of the axes behind the leading ones, where all are known."""
    shape = None if value is None else value.shape
    sizes = () if shape is None else tuple(shape[_LEADING:])
    return tuple(int(size) for size in sizes if isinstance(size, int)) if sizes and _known(sizes) else None


def _known(sizes: tuple[object, ...]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _before_reshape(value: ir.Value) -> ir.Value:
    """Return what a Reshape split into heads; the value itself where none did."""
    node = value.producer()
    whole = node.inputs[0] if node is not None and (node.domain, node.op_type) == ("", "Reshape") else None
    return whole if whole is not None and _keeps_leading(whole, value) else value


def _keeps_leading(one: ir.Value, other: ir.Value) -> bool:
    """Tell whether two values, one a Reshape of the other, differ behind the leading axes alone."""
    a, b = _sizes(one), _sizes(other)
    if a is None or b is None or one.shape is None or other.shape is None or prod(a) != prod(b):
        return False
    return list(one.shape[:_LEADING]) == list(other.shape[:_LEADING])


def _reached(view: _View, parts: list[ir.Value]) -> Iterator[tuple[_View, int]]:
    """Yield the values that hold one part whole and in order, as late as possible, with the part's number."""
    own, branches = _part_of(view, parts), []
    for node, place in view.value.uses():
        step = _step(view, node) if place == 0 else None
        branches.append([found for each in step or () for found in _reached(each, parts)])
    if own is not None and (view.value.is_graph_output() or not branches or not all(branches)):
        yield view, own
    else:
        yield from (found for branch in branches for found in branch)


def _part_of(view: _View, parts: list[ir.Value]) -> int | None:
    """Return the number of the part whose features a value holds, all of them in their order."""
    start = 0
    for number, part in enumerate(parts):
        sizes = _sizes(part)
        assert sizes is not None, "the sizes of parts are known"
        width = prod(sizes)
        if view.features.size == width and np.array_equal(view.features.reshape(-1), np.arange(start, start + width)):
            return number
        start += width
    return None


def _step(view: _View, node: ir.Node) -> list[_View] | None:
    """Follow features through a node that moves them alone; None through any other."""
    if node.domain != "" or any(output.shape is None for output in node.outputs):
        return None
    follow = _STEPS.get(node.op_type)
    return None if follow is None else follow(view, node)


def _reshape(view: _View, node: ir.Node) -> list[_View] | None:
    output, sizes = node.outputs[0], _sizes(node.outputs[0])
    if not view.in_order or sizes is None or not _keeps_leading(view.value, output):
        return None
    features = view.features.reshape(sizes)
    return [_View(output, (*range(_LEADING), *([-1] * features.ndim)), features)]


def _transpose(view: _View, node: ir.Node) -> list[_View] | None:
    order = [int(axis) for axis in node.attributes["perm"].as_ints()]
    places = [place for place in (view.at(axis) for axis in order) if place is not None]
    return [_View(node.outputs[0], tuple(view.axes[axis] for axis in order), view.features.transpose(places))]


def _slice(view: _View, node: ir.Node) -> list[_View] | None:
    given = [_constants(value) for value in node.inputs[1:]]
    if len(given) < 3 or any(numbers is None for numbers in given):
        return None
    starts, ends, axes, *steps = (numbers for numbers in given if numbers is not None)
    features = view.features
    for start, end, axis in zip(starts, ends, axes, strict=True):
        place = view.at(axis)
        if place is None or any(step != 1 for step in (steps[0] if steps else ())):
            return None
        features = features[(slice(None),) * place + (slice(start, end),)]
    return [_View(node.outputs[0], view.axes, features)]


def _split(view: _View, node: ir.Node) -> list[_View] | None:
    axis = node.attributes.get_int("axis", 0)
    place = view.at(axis)
    sizes = [None if output.shape is None else output.shape[axis] for output in node.outputs]
    if place is None or not _known(tuple(sizes)):
        return None
    ends = np.cumsum([int(size) for size in sizes if isinstance(size, int)])[:-1]
    pieces = np.split(view.features, ends, axis=place)
    return [_View(output, view.axes, piece) for output, piece in zip(node.outputs, pieces, strict=True)]


def _gather(view: _View, node: ir.Node) -> list[_View] | None:
    axis, index = node.attributes.get_int("axis", 0) % len(view.axes), node.inputs[1]
    place = view.at(axis)
    if place is None or index is None or index.const_value is None or len(index.const_value.shape) > 1:
        return None
    numbers = index.const_value.numpy()
    axes = view.axes if numbers.ndim else (*view.axes[:axis], *view.axes[axis + 1 :])
    return [_View(node.outputs[0], axes, np.take(view.features, numbers, axis=place))]


def _squeeze(view: _View, node: ir.Node) -> list[_View] | None:
    axes = _constants(node.inputs[1]) if len(node.inputs) > 1 else None
    places = [view.at(axis) for axis in axes or ()]
    if not places or any(place is None or view.features.shape[place] != 1 for place in places):
        return None
    gone = {axis % len(view.axes) for axis in axes or ()}
    left = tuple(place for axis, place in enumerate(view.axes) if axis not in gone)
    return [_View(node.outputs[0], left, view.features.squeeze(tuple(place for place in places if place is not None)))]


_STEPS = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Squeeze": _squeeze,
}


def _constants(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(number) for number in value.const_value.numpy().reshape(-1)]


def _read(graph: ir.Graph, concat: ir.Node, view: _View, part: ir.Value) -> None:
    """Write a view of a part in place of a value that holds the same."""
    old, scope = view.value, view.value.producer()
    assert scope is not None and old.shape is not None and part.shape is not None, "a node of the graph writes it"
    made, sizes = part, view.features.shape
    leading = part.shape.dims[:_LEADING]
    if tuple(part.shape.dims[_LEADING:]) != sizes:
        shape = add_constant(graph, f"apart_{'_'.join(map(str, sizes))}", np.array([*([0] * _LEADING), *sizes]))
        made = new_node(graph, concat, "Reshape", [part, shape], like=part, scope=scope)
        made.shape = ir.Shape([*leading, *sizes])
    if not view.in_order:
        places = iter(range(_LEADING, len(view.axes)))
        order = [axis if axis >= 0 else next(places) for axis in view.axes]
        made = new_node(graph, concat, "Transpose", [made], like=old, scope=scope, perm=order)
    if made is part and old.is_graph_output():  # which may be an output, or an input, by its own name
        made = new_node(graph, concat, "Identity", [part], like=part, scope=scope)
    name = old.name
    replace_value(old, made)
    old.name = old.name or f"{name}_joined"  # the other parts may still be read where they are joined
