"""From a prepared trace to the finished graph: fold, plan, lower, finish, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from losparse.errors import LosparseError, shown
from losparse_runtime.contract.progress import Phases
from losparse_runtime.contract.task import Task

from .costs import Call, Calls, Traffic
from .graph.layer import PlannedLayer
from .graph.opsets import NEWEST
from .passes import Fold, fold_model
from .passes.fold import Layers
from .planning.choose import layer_specs, plan_model
from .planning.edits import check_edits, left_whole, switched_off
from .planning.lower import lower_model
from .planning.plan import LayerPlan, Plan
from .planning.tune import tune_plan
from .precision.table import PRECISION_TABLE
from .target import CPU, Target, check_target, finish_planned


@dataclass(frozen=True)
class Built:
    """A finished fp32 graph.

    Attributes:
        graph: of standard operators.
        plan: by which it was made.
        quantise: names of the products to quantise; empty for fp32 and fp16.
    """

    graph: ir.Model
    plan: Plan
    quantise: tuple[str, ...]


def build_graph(
    prepared: ir.Model,
    *,
    precision: str = "fp32",
    plan: Plan | None = None,
    calls: Calls | None = None,
    tune: bool = False,
    target: Target = CPU,
    opset: int = NEWEST,
    phases: Phases | None = None,
) -> Built:
    """Finish a graph.

    Args:
        prepared: as `prepare_model` leaves it; it is not changed.
        precision: what the graph is for; one of `PRECISIONS`.
        plan: to carry out; None to make one.
        calls: to plan for: one, or pairs of a call and its weight; one text of 128 tokens by default, or what the plan
            was made for.
        tune: choose by timing on this machine, not by estimate.
        target: the kind of machine to build for.
        opset: ONNX operator set to write.
        phases: told how many sizes are timed.

    Raises:
        LosparseError: there is a plan and something else that chooses, or the plan is for another model or precision,
            names a form that does not apply, has other folds or orders than the model, or leaves nothing to quantise.
    """
    check_target(target)
    check_choice(plan, calls, tune=tune)
    wanted = PRECISION_TABLE[precision]
    planned = wanted.planned if wanted.planned in target.plans else "fp32"
    if plan is not None:
        _check_planned(plan, planned, target)
        lowered = _lower_planned(prepared, plan, target)
    else:
        graph = prepared.clone()
        folds = fold_model(graph)
        plan = plan_model(graph, calls=calls, precision=planned, folds=folds, target=target)
        plan = tune_plan(plan, calls, target=target, phases=phases) if tune else plan
        lowered = lower_model(graph, plan, target)
    finished, quantise = _finish(lowered.clone(), plan, wanted.marked, planned, target, opset)
    if wanted.marked != "fp32" and not quantise:
        # Products this small gain nothing in int8. It was asked for, and the file at least becomes smaller.
        finished, quantise = _finish(lowered, plan, "all", planned, target, opset)
        if not quantise and any(layer.precision == "fp32" for layer in plan.layers.values()):
            raise LosparseError(
                f"the plan leaves nothing to quantise for precision {precision!r}: its layers are all fp32; edit the "
                "plan, or export with precision='fp32' (--precision)"
            )
    return Built(finished, plan, tuple(quantise))


def check_choice(plan: Plan | None, calls: Calls | None, *, tune: bool) -> None:
    """Refuse arguments that would change nothing: whoever gives one expects it to matter.

    Args:
        plan: what every layer becomes; nothing is left to choose beside it.
        calls: to plan for.
        tune: choose by timing; only then do the threads of the calls matter.

    Raises:
        LosparseError: see above.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise LosparseError(f"plan must be a Plan, as Plan.read(FILE) returns it, got {shown(plan)}")
    if plan is not None and (tune or calls is not None):
        other = "tune=True (--tune)" if tune else "calls= (--batch, --length, --threads)"
        raise LosparseError(f"plan= (--plan) says what every layer becomes, so {other} would change nothing; give one")
    for call in Traffic.of(calls).calls:
        if not tune and call.threads != Call().threads:
            raise LosparseError(
                f"the threads of calls= matter to tune=True (--tune) alone, got {call.threads}; add that, or leave "
                "them out"
            )


def check_past(calls: Calls | None, task: Task) -> None:
    """Refuse calls behind earlier tokens of a model that keeps nothing of them.

    Raises:
        LosparseError: see above.
    """
    call = next((call for call in Traffic.of(calls).calls if call.past), None)
    if call is not None and not task.causal:
        raise LosparseError(
            f"past of calls= is for models that keep what they computed of earlier tokens, {task.name} is none of "
            f"their tasks, got {call.past}; leave it out"
        )


def _lower_planned(prepared: ir.Model, plan: Plan, target: Target) -> ir.Model:
    """Fold and lower a copy of a model as a given plan says, which is refused where it says what cannot be done."""
    graph, folds, specs = _folded(prepared, (), ())
    known = [specs]
    skip, whole = switched_off(plan, folds), left_whole(plan, folds)
    if skip or whole:
        graph, _, specs = _folded(prepared, skip, whole)
        known.append(specs)
    lowered = lower_model(graph, plan, target)  # first: a plan for another model is best known by its layers
    check_edits(plan, folds, known)
    return lowered


def _folded(
    prepared: ir.Model, skip: Sequence[Layers], whole: Sequence[Layers]
) -> tuple[ir.Model, tuple[Fold, ...], Mapping[str, PlannedLayer]]:
    graph = prepared.clone()
    folds = fold_model(graph, skip=skip, whole=whole)
    return graph, folds, layer_specs(graph)


def _finish(
    lowered: ir.Model, plan: Plan, marked: str, planned: str, target: Target, opset: int
) -> tuple[ir.Model, list[str]]:
    """Finish a lowered model; a layer that an int8 plan wants in fp32 stays so, all else becomes what is `marked`."""
    if marked == "fp32":
        return finish_planned(lowered, plan.calls, target=target, opset=opset)
    left = {name for name, layer in plan.layers.items() if planned == "int8" and layer.precision == "fp32"}
    layers = {name: "fp32" if name in left else marked for name in plan.layers}
    return finish_planned(lowered, plan.calls, precision=marked, layers=layers, target=target, opset=opset)


def _check_planned(plan: Plan, planned: str, target: Target) -> None:
    """Refuse a plan for another target or precision, and a layer in int8 in a plan whose graph has none."""
    if plan.target != target.name:
        raise LosparseError(
            f"the plan is for target {plan.target!r}, this export is for {target.name!r}; export for the plan's with "
            f"target= (--target {plan.target}), or make another plan"
        )
    if plan.precision != planned:
        raise LosparseError(
            f"the plan is for precision {plan.precision!r}, this export plans for {planned!r}; "
            "export with that precision, or make another plan"
        )
    for name, layer in plan.layers.items():
        if planned == "fp32" and layer.precision != "fp32":
            raise LosparseError(
                f"the plan is for precision 'fp32', so that of layer {name!r} must be 'fp32', got "
                f"{layer.precision!r}; edit a plan that an export with precision='int8' (--precision) wrote"
            )


def dense_plan(plan: Plan, reason: str, refused: str) -> Plan:
    """Return the plan that merges every layer.

    Args:
        plan: of the same model.
        reason: why dense.
        refused: why not the form that `plan` chose.
    """

    def merged(layer: LayerPlan) -> LayerPlan:
        others: Mapping[str, str] = {name: why for name, why in layer.refused.items() if name != "dense"}
        others = {**others, layer.lowering: refused} if layer.lowering != "dense" else others
        return replace(layer, lowering="dense", reason=reason, refused=others)

    return replace(plan, layers={name: merged(layer) for name, layer in plan.layers.items()})
