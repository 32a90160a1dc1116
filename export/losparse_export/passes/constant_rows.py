"""A vector that is repeated for every token only to be added is added as it is.

    Expand(vector, (tokens, width)) + x     ->      x + vector

It is what a layer leaves of which nothing was kept (`lowerings.constant`). The sum takes the vector along with the
other biases, and nothing is computed of how many tokens there are.
"""

from __future__ import annotations

import onnx_ir as ir

from ..graph.constants import constant_vector


class ConstantRowsPass(ir.passes.InPlacePass):
    """Takes out every Expand of one number a feature that is only added to something as large."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        changed = False
        for node in tuple(model.graph):
            if (node.domain, node.op_type) == ("", "Expand"):
                changed |= _take_out(node)
        return ir.passes.PassResult(model, changed)


def _take_out(node: ir.Node) -> bool:
    out, vector = node.outputs[0], node.inputs[0]
    shape = out.shape
    if shape is None or not len(shape) or not isinstance(shape[-1], int) or vector is None:
        return False
    if constant_vector(vector, shape[-1]) is None:
        return False
    changed = False
    for user, place in tuple(out.uses()):
        if (user.domain, user.op_type) == ("", "Add") and _as_large(user.inputs[1 - place], out):
            user.replace_input_with(place, vector)
            changed = True
    return changed


def _as_large(other: ir.Value | None, out: ir.Value) -> bool:
    """Tell whether a value is computed, and has the axes of another one whose first ones are not known before."""
    if other is None or other is out or other.const_value is not None or other.shape is None or out.shape is None:
        return False
    same = len(other.shape) == len(out.shape) and other.shape[-1] == out.shape[-1]
    return same and not any(isinstance(axis, int) for axis in (*other.shape[:-1], *out.shape[:-1]))
