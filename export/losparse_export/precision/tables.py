"""Embedding tables as int8 rows with a scale each.

    ids -> Gather(W)      ->   ids -> Reshape(-1) -> Gather(rows) -> DequantizeLinear(axis 0) -> Reshape(..., width)
                                            '---> Gather(scales) ---'
    W -> any other node   ->   rows -> Cast -> Mul(scales) -> that node; a tied head may have int8 products (`tied`)

A table is dequantised behind the Gather, and only the rows that are taken. As one axis of tokens, because a
DequantizeLinear whose scales belong to rows is as fast as a Gather of floats, and a product with a scale of every token
is not: measured at 1 to 1,024 tokens of 384 and 768 features, the form above takes 0.9 to 1.3 times the float table's
time (where it is more, 2 microseconds), Cast and Mul up to 5 times at 1,024 tokens, GatherBlockQuantized of onnxruntime
up to 5 times.

Other nodes - a head that is tied to the table - read what onnxruntime makes of Cast and Mul when it opens the model:
the table in float, in memory alone. It does not do that with a DequantizeLinear, which would go over the whole table in
every run: with 30,522 rows of 384, a head took 130 ms for one token so, and 3.5 with a float table.

Where a few columns are far larger than the others, a Mul with scales of the columns stands behind all that.

A number moves by half a scale at most, and a scale is the row's largest number / 127 (/ 63 beside a head of 7 bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graph.constants import add_constant, derived_name
from .emit import Emitter, Names
from .tied import StoredTable, int8_head, is_head

# What a table must save of the file, in bytes: its four or five nodes take a few microseconds of every call.
LEAST_SAVED = 2**16

_BITS = 8
# Rows by which it is decided whether columns have scales.
_LOOKED_AT = 2**12
# Numbers that are rounded at a time: a table may have a gigabyte.
_PART = 2**22

Array = NDArray[Any]


def shrink_tables(model: ir.Model, *, head_bits: int | None = None, least_saved: int = LEAST_SAVED) -> tuple[str, ...]:
    """Store the tables of a graph as int8 rows with a scale each; in place.

    A table is a constant float matrix of which a Gather takes rows by numbers that are no constant. Integer tables stay
    as they are, so a checkpoint that has int8 rows keeps its own.

    Args:
        model: a finished graph, its nodes named.
        head_bits: of a weight in an int8 product, where heads that are tied to a table become such products; a table
            has no more bits than its head. None to leave them products of floats.
        least_saved: bytes that a table must save; smaller ones stay as they are.

    Returns:
        Names of the tables that were changed.
    """
    names, tables = Names(model.graph), tables_to_shrink(model, least_saved=least_saved)
    for name in tables:
        _shrink(model.graph, model.graph.initializers[name], names, head_bits)
    return tables


def tables_to_shrink(model: ir.Model, *, least_saved: int = LEAST_SAVED) -> tuple[str, ...]:
    """Name the tables that `shrink_tables` would change.

    Args:
        model: a finished graph.
        least_saved: see there.
    """
    return tuple(name for name, value in model.graph.initializers.items() if _is_table(value, least_saved))


@dataclass(frozen=True)
class Rounded:
    """A table in int8: a number is its row's scale times its column's times what is stored.

    Attributes:
        rows: what is stored; int8 (rows, width).
        scales: of the rows; float32 (rows,). A row of zeros has scale 1.
        columns: of the columns; float32 (width,). None where all are 1.
    """

    rows: Array
    scales: Array
    columns: Array | None = None


def round_table(table: Array) -> Rounded:
    """Round a table, with scales of columns where those at least halve what is lost.

    A few columns that are far larger than the others leave them few steps: 3.1 % of a row of positions of MPNet is
    lost so, and 0.5 % with scales of the columns; of its words 1.1 and 0.8 %, of MiniLM's 0.7 either way.

    Args:
        table: finite; float32 (rows, width).
    """
    sizes = np.sqrt(np.mean(np.square(table), axis=0, dtype=np.float64)).astype(np.float32)
    columns = np.maximum(sizes / max(float(np.median(sizes)), 1e-30), np.float32(1))
    some = table[:: max(1, len(table) // _LOOKED_AT)]
    if _lost(some / columns, columns) > 0.5 * _lost(some, np.ones_like(columns)):
        return Rounded(*quantise_rows(table))
    return Rounded(*quantise_rows(table, columns=columns), columns)


def _lost(table: Array, columns: Array) -> float:
    """Return how much of a row is lost by rounding, root mean square of all rows; the table is less its columns'."""
    rows, scales = quantise_rows(table)
    lost = _row_sizes((rows * scales[:, None] - table) * columns)
    whole = _row_sizes(table * columns)
    return float(np.sqrt(np.mean(lost[whole > 0] / whole[whole > 0]))) if (whole > 0).any() else 0.0


def _row_sizes(table: Array) -> Array:
    """Return the mean square of every row."""
    return np.asarray(np.mean(np.square(table), axis=1, dtype=np.float64))


def quantise_rows(table: Array, bits: int = _BITS, columns: Array | None = None) -> tuple[Array, Array]:
    """Round every row of a table to whole numbers times a scale of its own.

    Args:
        table: finite; float32 (rows, width).
        bits: of a number: 8 for -127 .. 127.
        columns: by which the columns are divided first; float32 (width,).

    Returns:
        int8 (rows, width) and float32 (rows,). A row of zeros has scale 1.
    """
    rows, scales = np.empty(table.shape, np.int8), np.empty(len(table), np.float32)
    most = 2 ** (bits - 1) - 1
    count = max(1, _PART // max(1, table.shape[1]))
    for first in range(0, len(table), count):
        part = table[first : first + count]
        part = part if columns is None else part / columns
        largest = np.abs(part).max(axis=1, initial=0.0) / np.float32(most)
        scale = np.where(largest > 0, largest, np.float32(1))
        # The largest number of a row may come out as one more where its scale is so small that it was rounded itself.
        rounded = np.clip(np.rint(part / scale[:, None]), -most, most)
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


def _shrink(graph: ir.Graph, value: ir.Value, names: Names, head_bits: int | None) -> None:
    """Replace a table in all nodes that read it."""
    tensor = value.const_value
    assert tensor is not None and value.name is not None, "a table is an initialiser"
    heads = [] if head_bits is None else [user for user, _ in value.uses() if is_head(user)]
    if heads and head_bits is not None:
        # Scales of columns would go into the activations of the head, which have few steps of their own.
        found = Rounded(*quantise_rows(tensor.numpy(), head_bits))
    else:
        found = round_table(tensor.numpy())
    kept = {"rows": found.rows, "scales": found.scales}
    rows, scales = (add_constant(graph, derived_name(value, name), array) for name, array in kept.items())
    columns = None if found.columns is None else add_constant(graph, derived_name(value, "columns"), found.columns)
    stored = StoredTable(rows, scales, columns)
    whole: ir.Value | None = None
    for user, index in tuple(value.uses()):
        if _takes_rows(user, index):
            _take_rows(graph, user, stored, names)
            continue
        if user in heads:
            int8_head(graph, user, stored, names)
            continue
        if whole is None:
            whole = _whole(graph, value, stored, names)
        user.replace_input_with(index, whole)
    del graph.initializers[value.name]


def _take_rows(graph: ir.Graph, gather: ir.Node, table: StoredTable, names: Names) -> None:
    """Put the int8 form in the place of a Gather; all its nodes belong to the Gather's module."""
    ids, output = gather.inputs[1], gather.outputs[0]
    assert ids is not None and ids.shape is not None, "as `_takes_rows` looked at"
    new = Emitter(graph, gather, names)
    one_axis = len(ids.shape) == 1
    flat = ids if one_axis else new.node("Reshape", ids, new.numbers([-1]))
    taken, sizes = (new.node("Gather", part, flat, axis=0) for part in (table.rows, table.scales))
    found = new.node("DequantizeLinear", taken, sizes, axis=0)
    if table.columns is not None:
        found = new.node("Mul", found, table.columns)
    if not one_axis:
        found = new.node("Reshape", found, _shape(new, ids, table.rows))
    new.put(found, output)


def _shape(new: Emitter, ids: ir.Value, rows: ir.Value) -> ir.Value:
    """Return the shape of the rows that are taken: a constant where one axis at most is not known."""
    assert ids.shape is not None and rows.const_value is not None
    _, width = (int(size) for size in rows.const_value.shape.numpy())
    known = [axis if isinstance(axis, int) else -1 for axis in ids.shape]
    if known.count(-1) <= 1:
        return new.numbers([*known, width])
    return new.node("Concat", new.node("Shape", ids), new.numbers([width]), axis=0)


def _whole(graph: ir.Graph, value: ir.Value, table: StoredTable, names: Names) -> ir.Value:
    """Return the table in float for readers that are no Gather, a head that is tied to it say."""
    new = Emitter(graph, graph[0], names, module="")
    numbers = new.node("Cast", table.rows, to=ir.DataType.FLOAT)
    found = new.node("Mul", numbers, new.node("Unsqueeze", table.scales, new.numbers([1])))
    if table.columns is not None:
        found = new.node("Mul", found, table.columns)
    found.type, found.shape = value.type, value.shape
    return found
