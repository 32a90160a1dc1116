"""Which form every factored layer takes: the cheapest that applies, and why each other one was not taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..costs import Calls, Traffic
from ..graph.layer import PlannedLayer
from ..graph.node import find_factored
from ..passes.fold import Fold
from ..target import CPU, Target, check_target
from .plan import LayerPlan, Plan


@dataclass(frozen=True)
class Candidate:
    """One form of one layer.

    Attributes:
        lowering: its name.
        refused: why it does not apply, or None.
        cost: multiply-adds per token, glue included; None where it does not apply.
    """

    lowering: str
    refused: str | None
    cost: float | None


def plan_model(
    model: ir.Model,
    *,
    calls: Calls | Traffic | None = None,
    precision: str = "fp32",
    folds: Sequence[Fold] = (),
    target: Target = CPU,
) -> Plan:
    """Choose a form for every factored layer of a traced model.

    Args:
        model: as `trace_model` or `fold_model` leaves it.
        calls: to plan for: one, or pairs of a call and its weight; one text of 128 tokens by default.
        precision: "int8" to plan for products that are quantised where that is faster.
        folds: what `fold_model` returned, to be recorded.
        target: to plan for.

    Returns:
        The plan, in graph order.

    Raises:
        LosparseError: the target is none, or a call or its weight is out of range.
    """
    return plan_layers(layer_specs(model), calls=calls, precision=precision, folds=folds, target=target)


def layer_specs(model: ir.Model) -> dict[str, PlannedLayer]:
    """Return the sizes of a traced model's factored layers by qualified name, in graph order."""
    specs: dict[str, PlannedLayer] = {}
    for layer in find_factored(model):
        # A layer that is called twice has one form; what only one call could be put in order for does not count.
        same = specs.get(layer.name, layer.spec) == layer.spec
        specs[layer.name] = layer.spec if same else replace(layer.spec, order=None)
    return specs


def plan_layers(
    specs: Mapping[str, PlannedLayer],
    *,
    calls: Calls | Traffic | None = None,
    precision: str = "fp32",
    folds: Sequence[Fold] = (),
    target: Target = CPU,
) -> Plan:
    """Choose a form for layers of the given sizes; see `plan_model`."""
    check_target(target)
    traffic = Traffic.of(calls)
    layers = {name: _plan_layer(spec, traffic, precision, target) for name, spec in specs.items()}
    return Plan(layers, tuple(folds), traffic, precision, target.name)


def candidates(
    spec: PlannedLayer, *, calls: Calls | Traffic | None = None, precision: str = "fp32", target: Target = CPU
) -> tuple[Candidate, ...]:
    """List every form of a target for a layer with its cost or the reason it does not apply, in its order."""
    check_target(target)
    listed, traffic = [], Traffic.of(calls)
    for lowering in target.lowerings:
        refused = lowering.check(spec)
        cost = None if refused is not None else target.price(lowering.cost(spec), traffic, precision)
        listed.append(Candidate(lowering.NAME, refused, cost))
    return tuple(listed)


def _plan_layer(spec: PlannedLayer, calls: Traffic, precision: str, target: Target) -> LayerPlan:
    listed = candidates(spec, calls=calls, precision=precision, target=target)
    costs = {c.lowering: c.cost for c in listed if c.cost is not None}
    refused = {c.lowering: c.refused for c in listed if c.refused is not None}
    best = min(costs, key=lambda name: costs[name])
    for name, cost in costs.items():
        if name != best:
            refused[name] = f"costs {cost:,.0f} multiply-adds per token, {best} costs {costs[best]:,.0f}"
    reason = f"cheapest of {len(costs)} that apply: {costs[best]:,.0f} multiply-adds per token, glue included, "
    tokens = " and ".join(str(call.tokens) for call in calls.calls)
    return LayerPlan(spec, best, f"{reason}in calls of {tokens} tokens{spec.narrowed_words}", refused, precision)
