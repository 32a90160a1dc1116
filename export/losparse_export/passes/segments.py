"""Let kept and other features stay two tensors where nothing needs them side by side.

    a -+-> Concat -> Gelu -+-> Slice(a's part) -> A         a -> Gelu -> A
    b -+                   +-> Slice(b's part) -> B   ->    b -> Gelu -> B

Neither Concat nor Slices are left, so nothing is copied. It holds where every Concat that writes the features has the
same boundary, and every reader is a Slice of one part.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from ..graph.constants import derived_name, replace_value
from ..graph.marks import inherit
from ..graph.node import Array
from ..graph.region import Region, Walker

Bounds = tuple[int, int]


class SplitSegmentsPass(ir.passes.InPlacePass):
    """Takes out every Concat whose parts are only read apart."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        walker = Walker(lambda node: _widths(node) is not None, lambda node, index: _bounds(node, index) is not None)
        changed = False
        for node in tuple(model.graph):
            if node.graph is None or _widths(node) is None:
                continue  # taken out with an earlier one, or not a Concat of features
            region = walker.find(node.outputs[0])
            if region is not None and _splits(region):
                _split(model.graph, region)
                changed = True
        return ir.passes.PassResult(model, changed)


def _widths(node: ir.Node) -> list[int] | None:
    """Return the features of every part of a Concat on the last axis."""
    shape = node.outputs[0].shape if node.op_type == "Concat" and node.domain == "" else None
    if shape is None or node.attributes["axis"].as_int() not in (-1, len(shape) - 1):
        return None
    widths = [value.shape[-1] if value is not None and value.shape is not None else None for value in node.inputs]
    return [width for width in widths if isinstance(width, int)] if all(isinstance(w, int) for w in widths) else None


def _bounds(node: ir.Node, index: int) -> Bounds | None:
    """Return start and stop of a Slice of the last axis with step 1."""
    if node.op_type != "Slice" or node.domain != "" or index != 0 or len(node.inputs) != 4:
        return None
    start, stop, axis = (_scalar(value) for value in node.inputs[1:])
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if start is None or stop is None or shape is None or axis not in (-1, len(shape) - 1):
        return None
    return start, stop


def _scalar(value: ir.Value | None) -> int | None:
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return int(value.const_value.numpy().reshape(()))


def _boundaries(node: ir.Node) -> tuple[Bounds, ...]:
    ends = np.cumsum([0, *(_widths(node) or [])]).tolist()
    return tuple(itertools.pairwise(ends))


def _splits(region: Region) -> bool:
    parts = {_boundaries(node) for node in region.sources}
    if region.blocked is not None or len(parts) != 1 or not region.sinks:
        return False
    boundaries = parts.pop()
    simple = all(node.op_type != "Reshape" for node in region.nodes)
    return simple and all(_bounds(node, index) in boundaries for node, index in region.sinks)


def _split(graph: ir.Graph, region: Region) -> None:
    places = {node: place for place, node in enumerate(graph)}
    inside = sorted(region.nodes, key=lambda node: places[node])
    vectors = {(node, place) for node, place in region.constants}
    for part, bounds in enumerate(_boundaries(region.sources[0])):
        sinks = [node for node, index in region.sinks if _bounds(node, index) == bounds]
        if not sinks:
            continue
        mine: dict[ir.Value, ir.Value] = {}
        for source in region.sources:
            value = source.inputs[part]
            assert value is not None
            mine[source.outputs[0]] = value
        for node in inside:
            mine[node.outputs[0]] = _copy(graph, node, mine, vectors, bounds)
        for sink in sinks:
            source_value = sink.inputs[0]
            assert source_value is not None
            replace_value(sink.outputs[0], mine[source_value])
    for node in [*(sink for sink, _ in region.sinks), *reversed(inside), *region.sources]:
        graph.remove(node, safe=True)


def _copy(
    graph: ir.Graph,
    node: ir.Node,
    mine: dict[ir.Value, ir.Value],
    vectors: set[tuple[ir.Node, int]],
    bounds: Bounds,
) -> ir.Value:
    """Write the node once more, for one part of the features."""
    inputs: list[ir.Value | None] = []
    for place, value in enumerate(node.inputs):
        if value is not None and (node, place) in vectors and value.const_value is not None:
            inputs.append(_part_of(graph, value, value.const_value.numpy(), bounds))
        else:
            inputs.append(value if value is None else mine.get(value, value))
    copy = inherit(ir.Node(node.domain, node.op_type, inputs, node.attributes.values()), node)
    old = node.outputs[0]
    assert old.shape is not None
    copy.outputs[0].type, copy.outputs[0].shape = old.type, ir.Shape([*old.shape.dims[:-1], bounds[1] - bounds[0]])
    graph.insert_before(node, copy)
    return copy.outputs[0]


def _part_of(graph: ir.Graph, vector: ir.Value, array: Array, bounds: Bounds) -> ir.Value:
    name = derived_name(vector, f"{bounds[0]}_{bounds[1]}")
    if name not in graph.initializers:
        tensor = ir.tensor(np.ascontiguousarray(array[..., slice(*bounds)]), name=name)
        value = ir.Value(
            name=name, type=vector.type, shape=ir.Shape(array[..., slice(*bounds)].shape), const_value=tensor
        )
        graph.register_initializer(value)
    return graph.initializers[name]
