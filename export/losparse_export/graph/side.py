"""One layer at a list of features: what it writes or reads of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .marks import scope_of
from .node import OP_TYPE, Array, FactoredNode, Mask, Places, read_factored
from .region import Region


@dataclass
class Side:
    """One layer at a list of features: factored, or a plain product with a constant."""

    node: ir.Node
    writes: bool
    factored: FactoredNode | None

    @property
    def name(self) -> str:
        """Qualified name of the layer; "" for a product between modules."""
        return scope_of(self.node)

    @property
    def kept(self) -> Places | None:
        """The kept features at this side."""
        if self.factored is None or self.factored.kept is None:
            return None
        return self.factored.kept if (self.factored.spec.axis == "out") == self.writes else None

    @property
    def factor(self) -> Array | None:
        """The low-rank factor at this side, one row a feature; (features, rank)."""
        if self.factored is None or not self.rank:
            return None
        u, v = self.factored.whole_u, self.factored.whole_v
        return u if self.writes else None if v is None else v.T

    @property
    def rank(self) -> int:
        """Inner width of the low-rank part; 0 for none."""
        return 0 if self.factored is None else self.factored.spec.rank

    @property
    def pivots(self) -> Places | None:
        """The pivots that the layer is stored by, where they are features of this side."""
        if self.factored is None or (self.factored.spec.pivot_side == "out") != self.writes:
            return None
        return self.factored.pivots

    @property
    def weight(self) -> Array:
        """The merged weight with one row a feature; (features, others), in double precision."""
        if self.factored is not None:
            merged = self.factored.dense_weight()
            return merged if self.writes else merged.T
        plain = plain_weight(self.node).astype(np.float64)
        return plain.T if self.writes else plain

    @property
    def live(self) -> Mask:
        """The features for which the layer has any weight, by what is stored and not by what it adds up to."""
        if self.factored is None:
            return np.asarray(self.weight.any(axis=1))
        spec, width = (
            self.factored.spec,
            self.factored.spec.out_features if self.writes else self.factored.spec.in_features,
        )
        live = np.zeros(width, bool)
        if self.factor is not None:
            live |= self.factor.any(axis=1)
        sparse = self.factored.sparse
        if sparse is not None and self.factored.kept is not None:
            rows = (sparse if self.writes else sparse.T).any(axis=1)
            if (spec.axis == "out") == self.writes:
                live[self.factored.kept] |= rows
            else:
                live |= rows
        return live

    @property
    def bias(self) -> Array:
        """What a writing layer adds itself, zeros for a plain product; (features,)."""
        own = None if self.factored is None else self.factored.bias_values
        return np.zeros(len(self.live)) if own is None else own.astype(np.float64)


def plain_weight(node: ir.Node) -> Array:
    """Return the constant that a plain product multiplies by; (in, out)."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None, "a plain product has a constant"
    return np.asarray(weight.const_value.numpy())


def sides_of(region: Region) -> list[Side]:
    """Return the layers that write a region's features, then those that read them."""

    def side(node: ir.Node, writes: bool) -> Side:
        return Side(node, writes, read_factored(node) if node.op_type == OP_TYPE else None)

    return [*(side(node, True) for node in region.sources), *(side(node, False) for node, _ in region.sinks)]
