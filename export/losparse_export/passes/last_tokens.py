"""The head of a language model, on the tokens of which somebody wants the logits: of a prompt, on its last one.

    hidden (b, s, h) -> MatMul -> logits (b, s, vocabulary)

    hidden (b, s, h) -> Slice from `logits_from` -> MatMul -> logits

A head of 49,152 rows over a whole prompt is most of its time. `logits_from` is an initialiser that may be fed: 0, its
value otherwise, gives all logits, -1 the last token's. Other programs that open the graph need not know it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from losparse_runtime.contract.tensors import LOGITS_FROM, present_of

from ..graph.constants import add_constant
from ..graph.marks import SCOPE, inherit

_BEHIND = {"Add", "Mul", "Div", "Tanh", "Cast"}
"""What may be done to logits behind the head: a bias, a scale, a soft cap."""
_MARK = "losparse.logits_from"
_END = np.iinfo(np.int64).max


class LastTokensPass(ir.passes.InPlacePass):
    """Cuts what the head reads, in a graph that keeps what it computed of earlier tokens."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        graph = model.graph
        head = _head(graph.outputs[0]) if any(present_of(value.name or "") for value in graph.inputs) else None
        hidden = None if head is None else head.inputs[0]
        if head is None or hidden is None:
            return ir.passes.PassResult(model, False)
        names = (LOGITS_FROM, 0), (f"{LOGITS_FROM}_end", _END), (f"{LOGITS_FROM}_axis", 1)
        places = [add_constant(graph, name, np.array([number], np.int64)) for name, number in names]
        cut = inherit(ir.Node("", "Slice", [hidden, *places]), head)
        cut.metadata_props[SCOPE], cut.metadata_props[_MARK] = "", ""
        cut.outputs[0].type = hidden.type
        cut.outputs[0].shape = None if hidden.shape is None else ir.Shape([hidden.shape[0], "kept", hidden.shape[2]])
        graph.insert_before(head, cut)
        head.replace_input_with(0, cut.outputs[0])
        return ir.passes.PassResult(model, True)


class OfferStartPass(ir.passes.InPlacePass):
    """Lets the start of the logits be fed, once no pass may take it for any other constant."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        graph = model.graph
        node = next((node for node in graph if _MARK in node.metadata_props), None)
        if node is None:
            return ir.passes.PassResult(model, False)
        start = add_constant(graph, LOGITS_FROM, np.array([0], np.int64))
        before = node.inputs[1]
        node.replace_input_with(1, start)
        if before is not None and not before.uses() and before.name is not None:
            del graph.initializers[before.name]
            del graph.initializers[start.name or ""]
            start.name = LOGITS_FROM
            graph.register_initializer(start)
        graph.inputs.append(start)
        return ir.passes.PassResult(model, True)


def _head(logits: ir.Value) -> ir.Node | None:
    """Return the product that logits come from; None where something else than token by token lies behind it."""
    value: ir.Value | None = logits
    while value is not None and (node := value.producer()) is not None:
        if node.domain == "" and node.op_type == "MatMul":
            weight = node.inputs[1]
            three = node.inputs[0] is not None and node.inputs[0].shape is not None and len(node.inputs[0].shape) == 3
            return node if three and weight is not None and weight.const_value is not None else None
        if node.domain != "" or node.op_type not in _BEHIND:
            return None
        value = next((each for each in node.inputs if each is not None and each.const_value is None), None)
    return None
