"""What every lowering is: three functions in a file, the cost they compare by, and the tape they write on.

A lowering is a module with a `NAME` and

    check(layer) -> str | None                why it cannot be used for these sizes, or None
    cost(layer) -> Counts                     what it would do per token, for a target to price
    emit(layer, tape) -> ir.Value             its nodes, written on the tape; the layer's output

`check` and `cost` see sizes only, so a plan needs no model and no weights. No form knows a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from ..costs import Counts, Product
from ..graph.layer import PlannedLayer
from ..graph.marks import inherit
from ..graph.node import Array, FactoredNode


class Lowering(Protocol):
    """One way to write a factored layer in standard operators; the modules of this package are such objects."""

    NAME: str

    def check(self, layer: PlannedLayer) -> str | None:
        """Say why this form cannot be used for the layer, or None."""

    def cost(self, layer: PlannedLayer) -> Counts:
        """Count what the form does."""

    def emit(self, layer: FactoredNode, tape: LayerTape) -> ir.Value:
        """Write the nodes and return the layer's output; (..., out)."""


class LayerTape:
    """Collects the nodes and weights of one layer, named after it.

    Args:
        layer: the layer that is written.
        taken: names of initialisers the graph already has: a layer that is called twice is written twice, and the
            second set of equal weights is merged with the first later.
    """

    def __init__(self, layer: FactoredNode, taken: Sequence[str] = ()) -> None:
        self._layer = layer
        self._taken = set(taken)
        self._tape = ir.tape.Tape()

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """The nodes so far, in order."""
        return self._tape.nodes

    @property
    def initializers(self) -> Sequence[ir.Value]:
        """The weights so far."""
        return self._tape.initializers

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Write one standard node with one output; an optional input that is left out is None."""
        value = self._tape.op(op_type, inputs, attributes)
        node = value.producer()
        assert node is not None, "the tape wrote it"
        inherit(node, self._layer.node)
        return value

    def constant(self, name: str, values: Array) -> ir.Value:
        """Store an array under `<layer>.<name>`."""
        full, count = f"{self._layer.name}.{name}", 1
        own = next((value for value in self._tape.initializers if value.name == full), None)
        if own is not None and own.const_value is not None and np.array_equal(own.const_value.numpy(), values):
            return own
        while full in self._taken:
            count += 1
            full = f"{self._layer.name}.{name}_{count}"
        self._taken.add(full)
        return self._tape.initializer(ir.tensor(np.ascontiguousarray(values), name=full))

    def matmul(self, x: ir.Value, name: str, weight: Array) -> ir.Value:
        """Multiply by a constant stored as `<layer>.<name>`.

        Args:
            x: (..., a).
            name: of the stored weight.
            weight: (b, a), as PyTorch keeps it; stored as (a, b), because MatMul reads it like that.

        Returns:
            (..., b).
        """
        product = self.op("MatMul", x, self.constant(name, weight.T.astype(self._layer.dtype, copy=False)))
        return self._described(product, len(weight))

    def affine(self, x: ir.Value, name: str, weight: Array, bias: Array | None) -> ir.Value:
        """Multiply as `matmul`, and add a part of the layer's bias, stored as `<layer>.<name>_bias`."""
        y = self.matmul(x, name, weight)
        if bias is None or not bias.any():
            return y
        return self.add(y, self.constant(f"{name}_bias", bias.astype(self._layer.dtype, copy=False)), len(bias))

    def zeros(self, width: int) -> ir.Value:
        """Store a vector of zeros; (width,)."""
        return self.constant("zeros", np.zeros(width, self._layer.dtype))

    def broadcast(self, vector: ir.Value, width: int) -> ir.Value:
        """Repeat a vector for every token of the layer's input; (width,) -> (..., width)."""
        leading = self.op("Shape", self._layer.x, start=0, end=-1)
        shape = self.op("Concat", leading, self.constant("width", np.array([width], np.int64)), axis=0)
        return self._described(self.op("Expand", vector, shape), width)

    def slice(self, x: ir.Value, start: int, stop: int, *, blocks: int = 1, width: int) -> ir.Value:
        """Take features start..stop of every one of `blocks` equal parts of the last axis.

        Args:
            x: (..., width).
            start: first feature in a part.
            stop: the one behind the last.
            blocks: parts.
            width: features in all.

        Returns:
            (..., blocks * (stop - start)).
        """
        if (start, stop) == (0, width // blocks):
            return x
        if blocks > 1:
            x = self._reshape(x, blocks, width // blocks)
        bounds = [self.constant(f"slice_{number}", np.array([number])) for number in (start, stop, -1)]
        part = self.op("Slice", x, *bounds)
        if blocks == 1:
            return self._described(part, stop - start)
        return self._described(self._reshape(part, -1), blocks * (stop - start))

    def pick(self, x: ir.Value, name: str, places: Array) -> ir.Value:
        """Take features one by one by a Gather on the last axis; (..., in) -> (..., len(places))."""
        return self._described(self.op("Gather", x, self.constant(name, places), axis=-1), len(places))

    def concat(self, parts: Sequence[ir.Value], widths: Sequence[int], *, blocks: int = 1) -> ir.Value:
        """Put tensors side by side, inside every one of `blocks` equal parts of the last axis; the reverse of `slice`.

        Args:
            parts: (..., widths[i]) each; those of width 0 are left out.
            widths: features of each, all blocks together.
            blocks: parts.
        """
        present = [(part, width) for part, width in zip(parts, widths, strict=True) if width]
        if len(present) == 1:
            return present[0][0]
        if blocks == 1:
            return self._described(self.op("Concat", *(part for part, _ in present), axis=-1), sum(widths))
        split = [self._reshape(part, blocks, width // blocks) for part, width in present]
        return self._described(self._reshape(self.op("Concat", *split, axis=-1), -1), sum(widths))

    def add(self, a: ir.Value, b: ir.Value, width: int) -> ir.Value:
        """Add two tensors of which the first has the shape of the sum; (..., width)."""
        return self._described(self.op("Add", a, b), width)

    def _described(self, value: ir.Value, width: int) -> ir.Value:
        """Note type and shape, which passes that follow features through the graph read."""
        x = self._layer.x
        value.type = x.type
        value.shape = None if x.shape is None else ir.Shape([*x.shape.dims[:-1], width])
        return value

    def _reshape(self, x: ir.Value, *last: int) -> ir.Value:
        """Replace the feature axis (or the two that `_reshape` made of it), and keep all others as they are."""
        shape = self._layer.x.shape
        assert shape is not None, "the trace knows how many axes a layer's input has"
        sizes = [0] * (len(shape) - 1) + list(last)
        return self.op("Reshape", x, self.constant("_".join(["shape", *map(str, last)]), np.array(sizes)))

    def add_bias(self, y: ir.Value) -> ir.Value:
        """Add the layer's bias, if it has one. Call it last: the fusion of a bias with a Gelu looks for that."""
        bias = self._layer.bias
        return y if bias is None else self.add(y, bias, self._layer.spec.out_features)


def low_rank_products(layer: PlannedLayer, *, inputs: int | None = None, outputs: int | None = None) -> list[Product]:
    """Return the two products with the factors, or with those of fewer features; none at rank 0."""
    if not layer.rank:
        return []
    first = (layer.in_features if inputs is None else inputs, layer.rank)
    return [first, (layer.rank, layer.out_features if outputs is None else outputs)]


def sparse_product(layer: PlannedLayer) -> Product:
    """Return the product with the kept rows or columns."""
    return (layer.in_features, layer.kept) if layer.axis == "out" else (layer.kept, layer.out_features)


def present(array: Array | None) -> Array:
    """Return a weight that the sizes say is there."""
    assert array is not None, "sizes and weights of a layer agree"
    return array


def stored_by_pivots(layer: FactoredNode, side: str, first: int) -> bool:
    """Tell whether the model stores a layer by pivots of a side that stand one behind the other, from `first` on."""
    if layer.pivots is None or layer.spec.pivot_side != side:
        return False
    return np.array_equal(layer.pivots, np.arange(first, first + layer.spec.rank))


def selector_matrix(kept: Array, size: int) -> Array:
    """Return E with E[j, kept[j]] = 1 and zeros elsewhere; (kept, size)."""
    matrix = np.zeros((len(kept), size), dtype=np.float32)
    matrix[np.arange(len(kept)), kept] = 1.0
    return matrix


def gather_last(tape: LayerTape, values: ir.Value, places: ir.Value, shape: ir.Shape | None) -> ir.Value:
    """Pick features: (..., a) -> (..., len(places)), by way of the first axis where the number of axes is known."""
    if shape is None:
        return tape.op("Gather", values, places, axis=-1)
    axes = list(range(len(shape)))
    front = tape.op("Transpose", values, perm=[axes[-1], *axes[:-1]])
    return tape.op("Transpose", tape.op("Gather", front, places, axis=0), perm=[*axes[1:], 0])
