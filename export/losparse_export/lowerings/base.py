"""What every lowering is: three functions in a file, the cost they compare by, and the tape they write on.

A lowering is a module with a `NAME` and

    check(layer) -> str | None      why it cannot be used for these sizes, or None
    cost(layer, tokens) -> Cost     what it would cost per token
    emit(layer, tape) -> ir.Value   its nodes, written on the tape; the layer's output

`check` and `cost` see sizes only, so a plan needs no model and no weights.

The unit of cost is one multiply-add of a matrix product. Everything else is converted into it by the constants below,
measured with onnxruntime 1.31.1, CPU provider, one thread, Zen 3 (AVX2), at 16 to 1,024 tokens: a multiply-add takes
about 0.026 ns there. They are rough, and made to order forms that differ by much more than their error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from ..layer import SCOPE, Array, FactoredNode, LayerShape

# Starting one more node, per call of the model: 1.5 us.
NODE = 60_000.0
# Reading and writing one float in an elementwise node or a copy (Add, Concat, Pad): 0.1 ns in cache, 0.4 ns outside.
ELEMENT = 16.0
# Gather on the last axis copies one float at a time: 7-8 ns each.
GATHER = 300.0
# Moving one output float through Transpose, Gather on the first axis (whole rows: a memcpy) and Transpose: 1-2 ns.
MOVE = 64.0


@dataclass(frozen=True)
class Cost:
    """What one form of a layer costs per token, in multiply-adds.

    Attributes:
        multiply_adds: of its matrix products.
        glue: time of its other nodes and of starting all of them, converted.
    """

    multiply_adds: float
    glue: float

    @property
    def total(self) -> float:
        """The number forms are compared by."""
        return self.multiply_adds + self.glue


def make_cost(multiply_adds: float, *, nodes: int, tokens: int, elements: float = 0, gathered: float = 0) -> Cost:
    """Convert counts into a cost; the bias, which every form adds alike, is left out.

    Args:
        multiply_adds: of the matrix products, per token.
        nodes: how many nodes run, per call.
        tokens: batch x sequence of a call.
        elements: floats an elementwise node or a copy writes, per token.
        gathered: floats picked one at a time, per token.
    """
    return Cost(float(multiply_adds), NODE * nodes / tokens + ELEMENT * elements + GATHER * gathered)


class Lowering(Protocol):
    """One way to write a factored layer in standard operators; the modules of this package are such objects."""

    NAME: str

    def check(self, layer: LayerShape) -> str | None:
        """Say why this form cannot be used for the layer, or None."""

    def cost(self, layer: LayerShape, tokens: int) -> Cost:
        """Estimate the cost per token in calls of `tokens` tokens."""

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
        scope = {SCOPE: self._layer.name}
        return self._tape.op(op_type, inputs, attributes, metadata_props=scope)

    def constant(self, name: str, values: Array) -> ir.Value:
        """Store an array under `<layer>.<name>`."""
        full, count = f"{self._layer.name}.{name}", 1
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
        return self.op("MatMul", x, self.constant(name, weight.T.astype(self._layer.dtype, copy=False)))

    def add_bias(self, y: ir.Value) -> ir.Value:
        """Add the layer's bias, if it has one. Call it last: the fusion of a bias with a Gelu looks for that."""
        bias = self._layer.bias
        return y if bias is None else self.op("Add", y, bias)


def present(array: Array | None) -> Array:
    """Return a weight that the sizes say is there."""
    assert array is not None, "sizes and weights of a layer agree"
    return array


def selector_matrix(kept: Array, size: int) -> Array:
    """Return E with E[j, kept[j]] = 1 and zeros elsewhere; (kept, size)."""
    matrix = np.zeros((len(kept), size), dtype=np.float32)
    matrix[np.arange(len(kept)), kept] = 1.0
    return matrix
