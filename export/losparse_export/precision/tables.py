"""Embedding tables as int8 rows with a scale each.

    ids -> Gather(W)      ->   ids -> Reshape(-1) -> Gather(rows) -> DequantizeLinear(axis 0) -> Reshape(..., width)
                                            '---> Gather(scales) ---'
    W -> any other node   ->   rows -> Cast -> Mul(scales) -> that node

A table is dequantised behind the Gather, and only the rows that are taken. As one axis of tokens, because a
DequantizeLinear whose scales belong to rows is as fast as a Gather of floats, and a product with a scale of every token
is not: measured at 1 to 1,024 tokens of 384 and 768 features, the form above takes 0.9 to 1.3 times the float table's
time (where it is more, 2 microseconds), Cast and Mul up to 5 times at 1,024 tokens, GatherBlockQuantized of onnxruntime
up to 5 times.

Other nodes - a head that is tied to the table - read what onnxruntime makes of Cast and Mul when it opens the model:
the table in float, in memory alone. It does not do that with a DequantizeLinear, which would go over the whole table in
every run: with 30,522 rows of 384, a head took 130 ms for one token so, and 3.5 with a float table.

A number moves by half a scale at most, and a scale is the row's largest number / 127.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graph.constants import add_constant, derived_name, replace_value

# What a table must save of the file, in bytes: its four or five nodes take a few microseconds of every call.
LEAST_SAVED = 2**16

_LARGEST = 127
# Numbers that are rounded at a time: a table may have a gigabyte.
_PART = 2**22

Array = NDArray[Any]


def shrink_tables(model: ir.Model, *, least_saved: int = LEAST_SAVED) -> tuple[str, ...]:
    """Store the tables of a graph as int8 rows with a scale each; in place.

    A table is a constant float matrix of which a Gather takes rows by numbers that are no constant. Integer tables stay
    as they are, so a checkpoint that has int8 rows keeps its own.

    Args:
        model: a finished graph, its nodes named.
        least_saved: bytes that a table must save; smaller ones stay as they are.

    Returns:
        Names of the tables that were changed.
    """
    names, tables = _Names(model.graph), tables_to_shrink(model, least_saved=least_saved)
    for name in tables:
        _shrink(model.graph, model.graph.initializers[name], names)
    return tables


def tables_to_shrink(model: ir.Model, *, least_saved: int = LEAST_SAVED) -> tuple[str, ...]:
    """Name the tables that `shrink_tables` would change.

    Args:
        model: a finished graph.
        least_saved: see there.
    """
    return tuple(name for name, value in model.graph.initializers.items() if _is_table(value, least_saved))


def quantise_rows(table: Array) -> tuple[Array, Array]:
    """Round every row of a table to -127 .. 127 times a scale of its own.

    Args:
        table: finite; float32 (rows, width).

    Returns:
        int8 (rows, width) and float32 (rows,). A row of zeros has scale 1.
    """
    rows, scales = np.empty(table.shape, np.int8), np.empty(len(table), np.float32)
    count = max(1, _PART // max(1, table.shape[1]))
    for first in range(0, len(table), count):
        part = table[first : first + count]
        largest = np.abs(part).max(axis=1, initial=0.0) / np.float32(_LARGEST)
        scale = np.where(largest > 0, largest, np.float32(1))
        # The largest number of a row may come out as 128 where its scale is so small that it was rounded itself.
        rounded = np.clip(np.rint(part / scale[:, None]), -_LARGEST, _LARGEST)
        rows[first : first + count], scales[first : first + count] = rounded.astype(np.int8), scale
    return rows, scales


def _is_table(value: ir.Value, least_saved: int) -> bool:
    """Tell whether a value is a table, large enough to be worth it."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
        return False
    if value.is_graph_input() or value.is_graph_output():
        return False
    count, width = (int(size) for size in tensor.shape.numpy())
    saved = 4 * count * width - (count * width + 4 * count)
    if saved < least_saved or not any(_takes_rows(user, index) for user, index in value.uses()):
        return False
    return bool(np.isfinite(tensor.numpy()).all())  # a row with an infinity has no scale


def _takes_rows(node: ir.Node, index: int) -> bool:
    """Tell whether a node takes rows of its input by numbers that are not known beforehand."""
    if (node.domain, node.op_type, index) != ("", "Gather", 0) or node.attributes.get_int("axis", 0) != 0:
        return False
    ids = node.inputs[1]
    return ids is not None and ids.const_value is None and ids.shape is not None


def _shrink(graph: ir.Graph, value: ir.Value, names: _Names) -> None:
    """Replace a table in all nodes that read it."""
    tensor = value.const_value
    assert tensor is not None and value.name is not None, "a table is an initialiser"
    numbers, sizes = quantise_rows(tensor.numpy())
    rows = add_constant(graph, derived_name(value, "rows"), numbers)
    scales = add_constant(graph, derived_name(value, "scales"), sizes)
    whole: ir.Value | None = None
    for user, index in tuple(value.uses()):
        if _takes_rows(user, index):
            _take_rows(graph, user, rows, scales, names)
            continue
        if whole is None:
            whole = _whole(graph, value, rows, scales, names)
        user.replace_input_with(index, whole)
    del graph.initializers[value.name]


def _take_rows(graph: ir.Graph, gather: ir.Node, rows: ir.Value, scales: ir.Value, names: _Names) -> None:
    """Put the int8 form in the place of a Gather; all its nodes belong to the Gather's module."""
    ids, output = gather.inputs[1], gather.outputs[0]
    assert ids is not None and ids.shape is not None, "as `_takes_rows` looked at"
    new = _Emitter(graph, gather, names)
    one_axis = len(ids.shape) == 1
    flat = ids if one_axis else new.node("Reshape", ids, new.numbers([-1]))
    taken, sizes = new.node("Gather", rows, flat, axis=0), new.node("Gather", scales, flat, axis=0)
    found = new.node("DequantizeLinear", taken, sizes, axis=0)
    if not one_axis:
        found = new.node("Reshape", found, _shape(new, ids, rows))
    found.type, found.shape = output.type, output.shape
    replace_value(output, found)
    if found.name is None:
        found.name = f"{new.last.name}_output_0"
    graph.remove(gather, safe=True)


def _shape(new: _Emitter, ids: ir.Value, rows: ir.Value) -> ir.Value:
    """Return the shape of the rows that are taken: a constant where one axis at most is not known."""
    assert ids.shape is not None and rows.const_value is not None
    _, width = (int(size) for size in rows.const_value.shape.numpy())
    known = [axis if isinstance(axis, int) else -1 for axis in ids.shape]
    if known.count(-1) <= 1:
        return new.numbers([*known, width])
    return new.node("Concat", new.node("Shape", ids), new.numbers([width]), axis=0)


def _whole(graph: ir.Graph, value: ir.Value, rows: ir.Value, scales: ir.Value, names: _Names) -> ir.Value:
    """Return the table in float for readers that are no Gather, a head that is tied to it say."""
    new = _Emitter(graph, graph[0], names, module="")
    found = new.node(
        "Mul", new.node("Cast", rows, to=ir.DataType.FLOAT), new.node("Unsqueeze", scales, new.numbers([1]))
    )
    found.type, found.shape = value.type, value.shape
    return found


class _Names:
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


class _Emitter:
    """Inserts named nodes in front of a node, under the name of its module."""

    def __init__(self, graph: ir.Graph, before: ir.Node, names: _Names, *, module: str | None = None) -> None:
        self.graph, self.before, self.names = graph, before, names
        self.module = (before.name or "").rpartition("/")[0] if module is None else module
        self.last = before

    def node(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Insert a node of one output."""
        self.last = ir.node(op_type, inputs, attributes, name=self.names.free(f"{self.module}/{op_type}"))
        output = self.last.outputs[0]
        output.name = f"{self.last.name}_output_0"
        self.graph.insert_before(self.before, self.last)
        return output

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
