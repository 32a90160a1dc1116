"""Mark the products that are to be quantised: those that are faster for it.

The mark says so to the passes after this one: a marked product stays a MatMul with its bias behind it, which is what
onnxruntime's quantiser takes, while all others become Gemm. It is a node's metadata and goes with all of it; the names
of the marked nodes are read before that (`quantised_nodes`).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..layer import SCOPE
from ..lowerings.base import int8_pays
from .constants import constant_matrix
from .naming import unmarked
from .sums import PRECISION


class MarkPrecisionPass(ir.passes.InPlacePass):
    """Marks products with constants.

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
        changed = False
        for node in model.graph:
            weight = constant_matrix(node.inputs[1]) if (node.domain, node.op_type) == ("", "MatMul") else None
            if weight is None:
                continue
            wanted = self._wanted(node)
            if wanted == "all" or (wanted == "int8" and int8_pays((weight.shape[0], weight.shape[1]))):
                node.metadata_props[PRECISION] = wanted
                changed = True
        return ir.passes.PassResult(model, changed)

    def _wanted(self, node: ir.Node) -> str:
        return self._layers.get(unmarked(node.metadata_props.get(SCOPE, ""))[0], self._precision)


def quantised_nodes(model: ir.Model) -> list[str]:
    """Return the names of the marked products."""
    return [node.name for node in model.graph if PRECISION in node.metadata_props and node.name is not None]
