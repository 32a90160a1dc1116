"""A factored layer as the exporter sees it: its sizes, enough to plan, and its node, which is lowered.

The trace leaves one node per layer (and per call of the layer), of domain `losparse` and type `FactoredLinear`:

    y = FactoredLinear(x, u, v, sparse, kept, bias) {axis, rank, kept_count, in_features, out_features}

with the weights as initialisers and absent ones left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

DOMAIN = "losparse"
OP_TYPE = "FactoredLinear"

# Metadata key of a node: the qualified name of the PyTorch module it came from. Dropped before the model is written.
SCOPE = "losparse.scope"

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one factored layer, all in features or neurons.

    Attributes:
        out_features: rows of the (out, in) weight.
        in_features: its columns.
        rank: inner width of the low-rank part; 0 for none.
        kept: kept rows (`axis="out"`) or columns (`axis="in"`) of the sparse part; 0 for none.
        axis: "out" or "in".
    """

    out_features: int
    in_features: int
    rank: int
    kept: int
    axis: str

    @property
    def dense_parameters(self) -> int:
        """Parameters of the dense weight."""
        return self.out_features * self.in_features

    @property
    def low_rank_parameters(self) -> int:
        """Parameters of `u` and `v`, and multiply-adds per token of the two products with them."""
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
        u: (out, rank) or None.
        v: (rank, in) or None.
        sparse: (kept, in), (out, kept) or None.
        kept: which rows or columns; int64 (kept,) or None.
        bias: the initialiser that holds it, (out,), or None.
    """

    name: str
    shape: LayerShape
    node: ir.Node
    u: Array | None
    v: Array | None
    sparse: Array | None
    kept: Array | None
    bias: ir.Value | None

    @property
    def x(self) -> ir.Value:
        """The layer's input, (..., in): read when asked for, because lowering the layer before may replace it."""
        x = self.node.inputs[0]
        assert x is not None, "the trace gives every layer an input"
        return x

    @property
    def dtype(self) -> Any:
        """Element type of the activations, as numpy names it."""
        return np.dtype(np.float32) if self.x.dtype is None else self.x.dtype.numpy()


def find_factored(model: ir.Model) -> Iterator[FactoredNode]:
    """List the factored layers of a traced model in graph order; a layer that is called twice comes twice."""
    for node in tuple(model.graph):
        if node.domain == DOMAIN and node.op_type == OP_TYPE:
            yield _read_node(node)


def _read_node(node: ir.Node) -> FactoredNode:
    # Absent weights are None, and trailing ones may be cut off.
    inputs: list[ir.Value | None] = [*node.inputs, None, None, None, None, None]
    u, v, sparse, kept, bias = inputs[1:6]
    shape = LayerShape(
        out_features=node.attributes["out_features"].as_int(),
        in_features=node.attributes["in_features"].as_int(),
        rank=node.attributes["rank"].as_int(),
        kept=node.attributes["kept_count"].as_int(),
        axis=node.attributes["axis"].as_string(),
    )
    return FactoredNode(
        name=node.metadata_props[SCOPE],
        shape=shape,
        node=node,
        u=_array(u),
        v=_array(v),
        sparse=_array(sparse),
        kept=_array(kept),
        bias=bias,
    )


def _array(value: ir.Value | None) -> Array | None:
    if value is None:
        return None
    assert value.const_value is not None, "the weights of a factored layer are initialisers"
    return np.asarray(value.const_value.numpy())
