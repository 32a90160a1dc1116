"""Store equal weights once: tied weights, also where one copy is transposed, and constants the trace repeats.

    initialisers W, W                          ->  W
    initialisers W (a, b) and its W^T (b, a)   ->  W, Transpose(W)

onnxruntime folds the Transpose away when it opens the model; the file holds the numbers once. onnx_ir's own pass for
the first case refuses matrices that are views of others, and folding leaves such views of every transposed weight.
"""

from __future__ import annotations

import onnx_ir as ir

from ..graph.constants import digest
from ..graph.marks import inherit
from ..graph.node import Array

# Elements; below 4 KiB of floats a Transpose node costs the file more than it saves. No machine's: it is folded away.
_SMALLEST_TRANSPOSED = 1024

_Key = tuple[ir.DataType, tuple[int, ...], str]


class ShareWeightsPass(ir.passes.InPlacePass):
    """Replaces every initialiser that equals an earlier one, or is the transpose of an earlier large one."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        seen: dict[_Key, ir.Value] = {}
        before = len(model.graph.initializers)
        for value in tuple(model.graph.initializers.values()):
            if value.const_value is None or value.is_graph_output() or value.is_graph_input():
                continue
            array, dtype = value.const_value.numpy(), value.const_value.dtype
            key = _key(dtype, array)
            if key in seen:
                _replace(model.graph, value, seen[key])
                continue
            transposed = _key(dtype, array.T) if array.ndim == 2 and array.size >= _SMALLEST_TRANSPOSED else None
            if transposed in seen:
                _replace(model.graph, value, _transpose(model.graph, value, seen[transposed]))
                continue
            seen[key] = value
        return ir.passes.PassResult(model, len(model.graph.initializers) != before)


def _key(dtype: ir.DataType, array: Array) -> _Key:
    return dtype, array.shape, digest(array)


def _transpose(graph: ir.Graph, value: ir.Value, earlier: ir.Value) -> ir.Value:
    node = ir.node("Transpose", [earlier], {"perm": [1, 0]})
    for user, _ in list(value.uses())[:1]:
        inherit(node, user)
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def _replace(graph: ir.Graph, value: ir.Value, other: ir.Value) -> None:
    assert value.name is not None, "initialisers have names"
    value.replace_all_uses_with(other)
    del graph.initializers[value.name]
