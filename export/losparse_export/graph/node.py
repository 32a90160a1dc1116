"""A factored layer as the exporter sees it: its sizes, enough to plan, and its node, which is lowered.

The trace leaves one node per layer (and per call of the layer), of domain `losparse` and type `FactoredLinear`:

    y = FactoredLinear(x, u, v, sparse, kept, bias, pivots)
            {axis, rank, kept_count, in_features, out_features, pivot_side, shared_v}

with the weights as initialisers and absent ones left out; `pivots` and `pivot_side` ("out" or "in") are there when the
low-rank part is stored by pivots. What is read from a node are full factors all the same, so no form has to know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

DOMAIN = "losparse"
OP_TYPE = "FactoredLinear"
INPUTS = ("x", "u", "v", "sparse", "kept", "bias", "pivots")

# Metadata key of a node: the qualified name of the PyTorch module it came from. Dropped before the model is written.
SCOPE = "losparse.scope"

# Metadata key of a product: the precision that the plan wants for the layer it came from. Passes give it on, and join
# no two products of which the plan wants different ones.
WANTED = "losparse.wanted"

# Behind the module of a node whose output is not quite what the PyTorch module returns: its features stand in another
# order, or a constant vector or the residual stream was added. It becomes part of the node's name, so that whoever
# compares the two knows.
REORDERED = ".reordered"
SHIFTED = ".shifted"
# Behind the module of a node that computes for several modules at once, so that nobody takes it for one of them.
SHARED = ".shared"
_REORDERED = "losparse.reordered"

Array = NDArray[Any]


@dataclass(frozen=True)
class Order:
    """How the fold pass laid out one side of a layer; see `passes.fold`.

    Attributes:
        side: "out" where the layer's outputs were put in order, "in" where its inputs were.
        blocks: equal parts of that side, heads or 1, in which the kept groups lie alike; 0 where every part keeps
            others, so that they lie in no regular way.
        first: where they begin in every part.
        pivots: whether the `rank` groups right behind the kept ones span the low-rank part of all others.
        split: whether every layer at that side has its kept groups in the same first places, so that kept and other
            features can stay two tensors all the way.
    """

    side: str
    blocks: int = 1
    first: int = 0
    pivots: bool = False
    split: bool = False


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one factored layer, all in features or neurons.

    Attributes:
        out_features: rows of the (out, in) weight.
        in_features: its columns.
        rank: inner width of the low-rank part; 0 for none.
        kept: kept rows (`axis="out"`) or columns (`axis="in"`) of the sparse part; 0 for none.
        axis: "out" or "in".
        order: how one side was put in order, or None where the kept groups lie anywhere.
        pivots: the side whose pivots the model stores, "out" or "in"; None for plain factors. Forms do not depend on
            it: they are made from full factors.
        shared: whether the model stores `v` with another layer that reads the same input. Forms do not depend on it:
            equal products are merged later.
    """

    out_features: int
    in_features: int
    rank: int
    kept: int
    axis: str
    order: Order | None = None
    pivots: str | None = None
    shared: bool = False

    @property
    def sizes(self) -> str:
        """The sizes in words, without the order and how the low-rank part is stored."""
        return f"{self.out_features}x{self.in_features}, rank {self.rank}, kept {self.kept}, axis {self.axis!r}"

    @property
    def dense_parameters(self) -> int:
        """Parameters of the dense weight."""
        return self.out_features * self.in_features

    @property
    def low_rank_parameters(self) -> int:
        """Parameters of the full `u` and `v`, and multiply-adds per token of the two products with them."""
        return self.rank * (self.in_features + self.out_features)

    @property
    def sparse_parameters(self) -> int:
        """Parameters of `sparse`, and multiply-adds per token of the product with it."""
        return self.kept * (self.in_features if self.axis == "out" else self.out_features)


@dataclass(frozen=True)
class FactoredNode:
    """One factored layer in the graph.

    Attributes:
        name: qualified name of the PyTorch module.
        shape: its sizes.
        node: the node of the traced graph.
        u: (out, rank) or None; of a layer stored by pivot outputs the identity at those.
        v: (rank, in) or None; of a layer stored by pivot inputs the identity at those.
        sparse: (kept, in), (out, kept) or None.
        kept: which rows or columns; int64 (kept,) or None.
        bias: the initialiser that holds it, (out,), or None.
        pivots: sorted outputs or inputs, as `shape.pivots` says; int64 (rank,) or None.
    """

    name: str
    shape: LayerShape
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
    def reordered(self) -> bool:
        """Whether the outputs stand in another order than PyTorch's."""
        return _REORDERED in self.node.metadata_props

    @property
    def bias_values(self) -> Array | None:
        """The numbers of the bias; (out,) or None."""
        return _array(self.bias)

    def dense_weight(self) -> Array:
        """Return the weight the layer stands for; (out, in).

        In double precision: rounded, it is then the nearest one to the product of the stored factors.
        """
        weight = np.zeros((self.shape.out_features, self.shape.in_features))
        if self.u is not None and self.v is not None:
            weight += self.u.astype(np.float64) @ self.v.astype(np.float64)
        if self.sparse is not None and self.kept is not None:
            weight[(self.kept, slice(None)) if self.shape.axis == "out" else (slice(None), self.kept)] += self.sparse
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
    side = node.attributes["pivot_side"].as_string() if "pivot_side" in node.attributes else None
    shape = LayerShape(
        out_features=node.attributes["out_features"].as_int(),
        in_features=node.attributes["in_features"].as_int(),
        rank=node.attributes["rank"].as_int(),
        kept=node.attributes["kept_count"].as_int(),
        axis=node.attributes["axis"].as_string(),
        order=read_order(node),
        pivots=side,
        shared="shared_v" in node.attributes,
    )
    u, v = _whole_factors(shape, arrays.pop("u"), arrays.pop("v"), arrays["pivots"])
    return FactoredNode(
        name=node.metadata_props[SCOPE], shape=shape, node=node, u=u, v=v, bias=inputs["bias"], **arrays
    )


def _whole_factors(
    shape: LayerShape, u: Array | None, v: Array | None, pivots: Array | None
) -> tuple[Array | None, Array | None]:
    """Put the identity of pivots in its place: numbers are copied, so this is exact."""
    if pivots is None:
        return u, v
    if shape.pivots == "out":
        assert v is not None, "the pivot rows are always there"
        return _with_identity(u, pivots, shape.out_features, v.dtype), v
    assert u is not None, "the product with the pivot inputs is always there"
    return u, _with_identity(None if v is None else v.T, pivots, shape.in_features, u.dtype).T


def _with_identity(others: Array | None, pivots: Array, size: int, dtype: Any) -> Array:
    """Return a factor with its rows at the pivots put in, (size, rank), from the other rows, (size - rank, rank)."""
    factor = np.zeros((size, len(pivots)), dtype)
    factor[pivots] = np.eye(len(pivots), dtype=dtype)
    if others is not None:
        factor[np.delete(np.arange(size), pivots)] = others
    return factor


def write_reordered(node: ir.Node) -> None:
    """Note on a layer's node that its outputs stand in another order than the PyTorch module's."""
    node.metadata_props[_REORDERED] = "1"


def write_order(node: ir.Node, order: Order | None) -> None:
    """Note on a layer's node how one of its sides was put in order."""
    if order is not None:
        node.attributes["order"] = ir.AttrString("order", json.dumps(asdict(order)))


def read_order(node: ir.Node) -> Order | None:
    """Return what `write_order` noted."""
    return Order(**json.loads(node.attributes["order"].as_string())) if "order" in node.attributes else None


def _array(value: ir.Value | None) -> Array | None:
    if value is None:
        return None
    assert value.const_value is not None, "the weights of a factored layer are initialisers"
    return np.asarray(value.const_value.numpy())
