"""Which products are to be quantised: what the plan wants for each, and which of those are faster for it.

First every product is told what the plan wants for its layer (`WantPrecisionPass`). Passes that make one product of
several join only those of which the plan wants the same, so that no layer gets the precision of another. Then, when
products have the widths they keep, those that gain are marked (`MarkPrecisionPass`): a marked product stays a MatMul
with its bias behind it, which is what onnxruntime's quantiser takes, while all others become Gemm. The names of
the marked nodes are read when all have theirs (`quantised_nodes`).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..costs import Costs, Traffic
from ..graph.constants import constant_matrix
from ..graph.marks import mark_converted, mark_wanted, marks_of, scope_of
from ..graph.node import Array


class WantPrecisionPass(ir.passes.InPlacePass):
    """Tells every product with a constant what is wanted for its layer; before any products are joined.

    Args:
        precision: for products outside the layers: "fp32" for none of them, "int8" for those that are faster for it,
            "all".
        layers: the same by qualified name of a layer.
    """

    def __init__(self, precision: str, layers: Mapping[str, str]) -> None:
        super().__init__()
        self._precision, self._layers = precision, layers

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        for node in model.graph:
            if _weight(node) is not None:
                mark_wanted(node, self._layers.get(scope_of(node), self._precision))
        return ir.passes.PassResult(model, True)


class MarkPrecisionPass(ir.passes.InPlacePass):
    """Marks the products that become what is wanted for them.

    Args:
        costs: of the machine: they say which products gain.
        calls: that the graph is for.
    """

    def __init__(self, costs: Costs, calls: Traffic) -> None:
        super().__init__()
        self._costs, self._calls = costs, calls

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        changed = False
        for node in model.graph:
            weight, wanted = _weight(node), marks_of(node).wanted
            if weight is None or wanted is None:
                continue
            if wanted == "all" or (wanted == "int8" and self._gains(weight)):
                mark_converted(node, wanted)
                changed = True
        return ir.passes.PassResult(model, changed)

    def _gains(self, weight: Array) -> bool:
        return self._costs.gains((weight.shape[0], weight.shape[1]), self._calls)


def _weight(node: ir.Node) -> Array | None:
    """Return the constant that a node multiplies by, (in, out), None for other nodes."""
    return constant_matrix(node.inputs[1]) if (node.domain, node.op_type) == ("", "MatMul") else None


def quantised_nodes(model: ir.Model) -> list[str]:
    """Return the names of the marked products."""
    return [node.name for node in model.graph if marks_of(node).converted and node.name is not None]
