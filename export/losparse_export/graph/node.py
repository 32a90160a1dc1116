"""A factored layer's node, which is lowered.

The trace leaves one node per layer (and per call of the layer), of domain `losparse` and type `FactoredLinear`:

    y = FactoredLinear(x, u, v, sparse, kept, bias, pivots) {attributes of its `LayerSpec`}

with the weights as initialisers and absent ones left out. They are read as stored: a low-rank part that is stored by
pivots has no identity in it. `whole_u` and `whole_v` put it in, for forms that multiply by whole factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from losparse.layers.spec import LayerSpec

from .layer import PlannedLayer
from .marks import marks_of, scope_of

DOMAIN = "losparse"
OP_TYPE = "FactoredLinear"
INPUTS = ("x", "u", "v", "sparse", "kept", "bias", "pivots")

Array = NDArray[Any]
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FactoredNode:
    """One factored layer in the graph.

    Attributes:
        name: qualified name of the PyTorch module.
        spec: its sizes, how its low-rank part is stored, and how its features lie.
        node: the node of the traced graph.
        u: as stored: (out, rank), of pivot outputs the rows of all others, (out - rank, rank); None where empty.
        v: as stored: (rank, in), of pivot inputs the columns of all others, (rank, in - rank); None where empty.
        sparse: (kept, in), (out, kept) or None.
        kept: which rows or columns; int64 (kept,) or None.
        bias: the initialiser that holds it, (out,), or None.
        pivots: sorted outputs or inputs, as `spec.pivot_side` says; int64 (rank,) or None.
    """

    name: str
    spec: PlannedLayer
    node: ir.Node
    u: Array | None
    v: Array | None
    sparse: Array | None
    kept: Array | None
    bias: ir.Value | None
    pivots: Array | None

    @property
    def x(self) -> ir.Value:
        """The layer's input, (..., in): read when asked for, because lowering the layer before may replace it."""
        x = self.node.inputs[0]
        assert x is not None, "the trace gives every layer an input"
        return x

    @property
    def bias_values(self) -> Array | None:
        """The numbers of the bias; (out,) or None."""
        return _array(self.bias)

    @cached_property
    def whole_u(self) -> Array | None:
        """`u` for every output, the identity at pivot outputs; (out, rank), None at rank 0."""
        if self.pivots is None or self.spec.pivot_side != "out":
            return self.u
        assert self.v is not None, "the pivot rows are always there"
        return _with_identity(self.u, self.pivots, self.spec.out_features, self.v.dtype)

    @cached_property
    def whole_v(self) -> Array | None:
        """`v` for every input, the identity at pivot inputs; (rank, in), None at rank 0."""
        if self.pivots is None or self.spec.pivot_side != "in":
            return self.v
        assert self.u is not None, "the product with the pivot inputs is always there"
        others = None if self.v is None else self.v.T
        return _with_identity(others, self.pivots, self.spec.in_features, self.u.dtype).T

    def dense_weight(self) -> Array:
        """Return the weight the layer stands for; (out, in).

        In double precision: rounded, it is then the nearest one to the product of the stored factors.
        """
        weight = np.zeros((self.spec.out_features, self.spec.in_features))
        if self.whole_u is not None and self.whole_v is not None:
            weight += self.whole_u.astype(np.float64) @ self.whole_v.astype(np.float64)
        if self.sparse is not None and self.kept is not None:
            weight[(self.kept, slice(None)) if self.spec.axis == "out" else (slice(None), self.kept)] += self.sparse
        return weight

    @property
    def dtype(self) -> Any:
        """Element type of the activations, as numpy names it."""
        return np.dtype(np.float32) if self.x.dtype is None else self.x.dtype.numpy()


def find_factored(model: ir.Model) -> Iterator[FactoredNode]:
    """List the factored layers of a traced model in graph order; a layer that is called twice comes twice."""
    for node in tuple(model.graph):
        if node.domain == DOMAIN and node.op_type == OP_TYPE:
            yield read_factored(node)


def read_factored(node: ir.Node) -> FactoredNode:
    """Read one factored layer's node."""
    # Absent weights are None, and trailing ones may be cut off.
    inputs = dict.fromkeys(INPUTS) | dict(zip(INPUTS, node.inputs, strict=False))
    arrays = {name: _array(value) for name, value in inputs.items() if name not in ("x", "bias")}
    marks = marks_of(node)
    planned = PlannedLayer.of(spec_of(node), marks.order, marks.whole)
    return FactoredNode(scope_of(node), planned, node, bias=inputs["bias"], **arrays)


def spec_of(node: ir.Node) -> LayerSpec:
    """Return the sizes of a layer as its node says them."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    place = INPUTS.index("bias")
    return LayerSpec.from_attributes(attributes, bias=len(node.inputs) > place and node.inputs[place] is not None)


def write_spec(node: ir.Node, spec: LayerSpec) -> None:
    """Say the sizes of a layer on its node, in place of those it had."""
    node.attributes.clear()
    node.attributes.update((each.name, each) for each in ir.convenience.convert_attributes(spec.to_attributes()))


def _with_identity(others: Array | None, pivots: Array, size: int, dtype: Any) -> Array:
    """Return a factor with its rows at the pivots put in, (size, rank), from the other rows, (size - rank, rank).

    Numbers are copied, so this is exact.
    """
    factor = np.zeros((size, len(pivots)), dtype)
    factor[pivots] = np.eye(len(pivots), dtype=dtype)
    if others is not None:
        factor[np.delete(np.arange(size), pivots)] = others
    return factor


def _array(value: ir.Value | None) -> Array | None:
    if value is None:
        return None
    assert value.const_value is not None, "the weights of a factored layer are initialisers"
    return np.asarray(value.const_value.numpy())
