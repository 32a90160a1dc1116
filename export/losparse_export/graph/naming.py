"""Names that say where a node comes from and are the same in every export.

    node            /bert/encoder/layer.0/attention/self/query/MatMul, .../MatMul_1, ...
    its outputs     /bert/encoder/layer.0/attention/self/query/MatMul_output_0
    weight          bert.encoder.layer.0.attention.self.query.bias: the qualified name in PyTorch (lowered layers: the
                    name the lowering gave it)
    dense weight that was transposed for its product    <qualified name of the layer>.weight_t
    other constant  <first node that reads it>_input_1

Nothing in a name depends on a counter of the tracer or on the order of an earlier export.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from .marks import NARROWED, REORDERED, SHARED, SHIFTED, marks_of, scope_of


def unmarked(name: str) -> tuple[str, str]:
    """Return a module's qualified name without what a node's name says of its output behind it, and that; "" for none.

    Args:
        name: as `module_of_path` reads it off a node's name.
    """
    for kind in (REORDERED, NARROWED, SHIFTED, SHARED):
        if name.endswith(f".{kind}"):
            return name.removesuffix(f".{kind}"), kind
    return name, ""


def marked(module: str, kinds: Sequence[str]) -> str:
    """Write behind a module's qualified name how a node's output differs from the module's."""
    return ".".join([module, *kinds]) if module else module


def place_of(node: ir.Node) -> str:
    """Return the module a node came from, and how its output differs from the module's, as names say it."""
    return marked(scope_of(node), marks_of(node).kinds)


class NamePass(ir.passes.InPlacePass):
    """Names nodes, values and constants; inputs and outputs of the graph keep their names."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        graph = model.graph
        graph.name = "main"
        fixed = {value.name for value in (*graph.inputs, *graph.outputs)}
        counts: Counter[str] = Counter()
        for node in graph:
            node.name = _next(f"{scope_path(place_of(node))}/{node.op_type}", counts)
            for index, output in enumerate(node.outputs):
                if output.name not in fixed:
                    output.name = f"{node.name}_output_{index}"
        for value in tuple(graph.initializers.values()):
            # The exporter's own names (val_7) have no dot; those of modules and lowerings have one.
            if value.name is not None and "." not in value.name:
                value.name = _free(_constant_name(value), graph)
        return ir.passes.PassResult(model, True)


def scope_path(module: str) -> str:
    """Write a qualified name as a path: "layer.0.output" -> "/layer.0/output"; a number stays with its list."""
    path = ""
    for part in module.split(".") if module else ():
        path += f".{part}" if part.isdigit() else f"/{part}"
    return path


def module_of_path(node_name: str) -> str:
    """Return the qualified name in a node's name; the reverse of `scope_path`, behind which the type stands."""
    return node_name.rpartition("/")[0].removeprefix("/").replace("/", ".")


def _next(base: str, counts: Counter[str]) -> str:
    counts[base] += 1
    return base if counts[base] == 1 else f"{base}_{counts[base] - 1}"


def _constant_name(value: ir.Value) -> str:
    node, index = next(iter(value.uses()))
    module = scope_of(node)
    is_matrix = value.shape is not None and len(value.shape) == 2
    if node.op_type in ("MatMul", "Gemm") and index == 1 and is_matrix and module:
        return f"{marked(module, marks_of(node).kinds[:-1])}.weight_t"
    return f"{node.name}_input_{index}"


def _free(name: str, graph: ir.Graph) -> str:
    count, full = 1, name
    while full in graph.initializers:
        count += 1
        full = f"{name}_{count}"
    return full
