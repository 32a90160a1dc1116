"""Squeezes that name their axes: without, a run with one text loses the axis of the texts as well.

    x (batch, 1) -> Squeeze -> y          with one text: no axis is left

    x (batch, 1) -> Squeeze {1} -> y      one axis, always

mBART and PLBart find their decoder's first token so.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


class NameSqueezedAxesPass(ir.passes.InPlacePass):
    """Gives every Squeeze without axes those that are 1 in every run."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        changed = [_name_axes(model.graph, node) for node in tuple(model.graph) if node.op_type == "Squeeze"]
        return ir.passes.PassResult(model, any(changed))


def _name_axes(graph: ir.Graph, node: ir.Node) -> bool:
    squeezed = node.inputs[0]
    named = len(node.inputs) > 1 and node.inputs[1] is not None
    if node.domain != "" or named or squeezed is None or squeezed.shape is None:
        return False
    axes = [place for place, size in enumerate(squeezed.shape) if size == 1]
    if not axes:
        return False  # onnxruntime takes no axes for all of them
    value = ir.Value(name=f"{node.outputs[0].name}_axes", const_value=ir.tensor(np.array(axes, np.int64)))
    graph.register_initializer(value)
    node.resize_inputs(2)
    node.replace_input_with(1, value)
    return True
