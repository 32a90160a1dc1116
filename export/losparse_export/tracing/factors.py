"""Other factored layers in the places of those that were traced: a trace takes ten seconds, this nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from losparse.layers.factored import FactoredLinear

from ..graph.constants import add_constant
from ..graph.node import INPUTS, find_factored, write_spec


def replace_factors(model: ir.Model, layers: Mapping[str, FactoredLinear]) -> ir.Model:
    """Return a traced model with other factored layers in the places of its own.

    Args:
        model: with a factored node for every name in `layers`; it is not changed.
        layers: by qualified name; of the sizes, and with the bias, of the layers they replace.
    """
    model = model.clone()
    for old in tuple(find_factored(model)):
        layer, node = layers[old.name], old.node
        write_spec(node, layer.spec)
        node.resize_inputs(len(INPUTS))
        for place, name in enumerate(INPUTS):
            if name in ("x", "bias"):
                continue
            tensor = getattr(layer, name)
            value = None
            if tensor is not None:
                value = add_constant(model.graph, f"{old.name}.{name}_new", np.asarray(tensor.detach().numpy()))
            node.replace_input_with(place, value)
    return model
