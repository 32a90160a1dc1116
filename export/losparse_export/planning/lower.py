"""Carry out a plan: every factored layer of a traced graph becomes standard operators."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from losparse.errors import LosparseError

from ..graph.node import DOMAIN, FactoredNode, find_factored
from ..lowerings import LayerTape
from ..target import CPU, Target
from .plan import LayerPlan, Plan


def lower_model(model: ir.Model, plan: Plan, target: Target = CPU) -> ir.Model:
    """Write every factored layer in the form the plan names; changes the model in place.

    Args:
        model: as `trace_model` returns it.
        plan: a form for each of its layers.
        target: whose forms.

    Returns:
        The same model, without nodes of the `losparse` domain.

    Raises:
        LosparseError: the plan is for other layers or sizes, or names a form that does not apply.
    """
    layers = tuple(find_factored(model))
    _check_cover(plan, layers)
    for layer in layers:
        _lower_layer(model.graph, layer, plan.layers[layer.name], target)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    assert DOMAIN not in model.graph.opset_imports, "every factored layer was lowered"
    return model


def _check_cover(plan: Plan, layers: tuple[FactoredNode, ...]) -> None:
    names = {layer.name for layer in layers}
    for missing in sorted(names - set(plan.layers)):
        raise LosparseError(f"the plan says nothing about layer {missing!r}; make a plan for this model")
    for extra in sorted(set(plan.layers) - names):
        raise LosparseError(f"the plan has layer {extra!r}, which the model has not; make a plan for this model")
    for layer in layers:
        planned, mine = plan.layers[layer.name].spec.in_model.words, layer.spec.in_model.words
        if planned != mine:
            raise LosparseError(f"the plan is for another {layer.name!r}: it has {planned}, the model {mine}")


def _lower_layer(graph: ir.Graph, layer: FactoredNode, planned: LayerPlan, target: Target) -> None:
    lowering = target.lowering(planned.lowering)
    refused = lowering.check(layer.spec)
    if refused is not None:
        raise LosparseError(f"lowering {planned.lowering!r} cannot be used for {layer.name!r}: {refused}")
    tape = LayerTape(layer, tuple(graph.initializers))
    result = lowering.emit(layer, tape)
    for weight in tape.initializers:
        graph.register_initializer(weight)
    ir.convenience.replace_nodes_and_values(graph, layer.node, [layer.node], tape.nodes, layer.node.outputs, [result])
