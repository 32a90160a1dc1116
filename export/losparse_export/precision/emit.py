"""New nodes of a finished graph, under names that are free: the passes that name nodes have run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..graph.constants import add_constant, replace_value


class Names:
    """Names that no node of a graph has."""

    def __init__(self, graph: ir.Graph) -> None:
        self._taken: Counter[str] = Counter(node.name or "" for node in graph)

    def free(self, base: str) -> str:
        """Return a name, numbered where it is taken."""
        count, name = 0, base
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken[name] += 1
        return name


class Emitter:
    """Inserts named nodes in front of a node, under the name of its module.

    Args:
        graph: where to.
        before: the node.
        names: of the graph's nodes.
        module: the path of another module than the node's; "" for none.
    """

    def __init__(self, graph: ir.Graph, before: ir.Node, names: Names, *, module: str | None = None) -> None:
        self.graph, self.before, self.names = graph, before, names
        self.module = (before.name or "").rpartition("/")[0] if module is None else module
        self.last = before

    def node(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Insert a node of one output."""
        return self.nodes(op_type, 1, *inputs, **attributes)[0]

    def nodes(self, op_type: str, outputs: int, *inputs: ir.Value, **attributes: Any) -> Sequence[ir.Value]:
        """Insert a node of several outputs."""
        name = self.names.free(f"{self.module}/{op_type}")
        self.last = ir.node(op_type, inputs, attributes, num_outputs=outputs, name=name)
        for place, output in enumerate(self.last.outputs):
            output.name = f"{name}_output_{place}"
        self.graph.insert_before(self.before, self.last)
        return self.last.outputs

    def put(self, found: ir.Value, output: ir.Value) -> None:
        """Let everything read a new value in the place of an output of the node in front of which it stands."""
        found.type, found.shape = output.type, output.shape
        replace_value(output, found)
        if found.name is None:
            found.name = f"{self.last.name}_output_0"
        self.graph.remove(self.before, safe=True)

    def numbers(self, values: Sequence[int]) -> ir.Value:
        """Return a constant of whole numbers; one of these numbers that is there already."""
        wanted = np.array(values, np.int64)
        for value in _vectors(self.graph):
            if value.const_value is not None and np.array_equal(value.const_value.numpy(), wanted):
                return value
        words = "_".join(map(str, values)).replace("-", "minus_")
        return add_constant(self.graph, f"/shape_{words}", wanted)


def _vectors(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the constants that are whole numbers on one axis."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.INT64 and len(tensor.shape) == 1:
            yield value
