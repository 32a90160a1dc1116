"""Choose forms by timing them on this machine, instead of estimating.

Every form that applies to a layer is built alone, with random weights of the layer's sizes, and timed in turns with the
others in onnxruntime at the call the plan is for. Times are kept in a file, by processor, version, threads, call and
sizes, so that the next export of like layers is immediate. Where kept and other features stay two tensors (`segments`),
so they do here: the layer then gives, or takes, two.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from losparse.environment import cache_folder, machine
from losparse_runtime.contract.progress import Phases
from losparse_runtime.dependencies import import_onnxruntime

from ..costs import Call, Calls, Traffic
from ..graph.constants import add_constant
from ..graph.layer import PlannedLayer
from ..graph.marks import SCOPE, mark_order
from ..graph.node import DOMAIN, OP_TYPE, write_spec
from ..precision.apply import apply_precision
from ..target import CPU, Target, check_target, finish_planned
from .cached import read_cached, write_cached
from .choose import candidates
from .lower import lower_model
from .plan import LayerPlan, Plan

_LEAST_ROUNDS, _LEAST_SECONDS = 9, 0.15
_NAME = "layer"

Timer = Callable[[Mapping[str, ir.Model], PlannedLayer, Call, str], Mapping[str, float]]
"""What times graphs of one layer in a call on a provider, as `time_models` does."""


def cache_file() -> Path:
    """Return where times are kept: times.json in the folder that `losparse.environment.cache_folder` says."""
    return cache_folder() / "times.json"


def tune_plan(
    plan: Plan,
    calls: Calls | Traffic | None = None,
    *,
    target: Target = CPU,
    cache: Path | None = None,
    phases: Phases | None = None,
    timer: Timer | None = None,
) -> Plan:
    """Choose for every layer the form that is fastest here.

    Args:
        plan: as `plan_model` made it.
        calls: what to time: one call, or pairs of a call and its weight; the fastest on the average is taken.
        target: whose forms, and whose provider.
        cache: file of times that are known; None for `cache_file()`.
        phases: told how many sizes are done.
        timer: takes the times; `time_models` by default.

    Returns:
        The plan with other choices, and times for reasons.

    Raises:
        LosparseError: the target is none, or a call or its weight is out of range.
    """
    check_target(target)
    traffic, file = Traffic.of(calls), cache_file() if cache is None else cache
    known, phases = _read_times(file), phases or Phases()
    timing = _Timing(traffic, target, known, timer or time_models)
    specs = list(dict.fromkeys((layer.spec, layer.precision) for layer in plan.layers.values()))
    times = {}
    for done, (spec, precision) in enumerate(specs):
        phases.at("timing forms", done, len(specs))
        times[spec, precision] = timing.times(spec, precision)
        write_cached(file, known)
    phases.at("timing forms", len(specs), len(specs))
    layers = {
        name: _fastest(layer, times[layer.spec, layer.precision], traffic, target.costs.error)
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers, calls=traffic)


def _fastest(layer: LayerPlan, times: Mapping[str, float], calls: Traffic, error: float) -> LayerPlan:
    best = min(times, key=lambda name: times[name])
    where = f"at {calls.words}"
    refused = {name: why for name, why in {layer.lowering: "estimated", **layer.refused}.items() if name != best}
    for name in refused:
        if name in times:
            refused[name] = f"takes {times[name]:.3f} ms {where}, {best} takes {times[best]:.3f} ms"
        elif refused[name].startswith(("costs", "estimated")):
            refused[name] = f"not timed: its estimate is more than {error:g} times the cheapest one's"
    reason = f"fastest of {len(times)} that were timed: {times[best]:.3f} ms {where}"
    reason += layer.spec.narrowed_words
    return replace(layer, lowering=best, reason=reason, refused=refused)


@dataclass(frozen=True)
class _Timing:
    """Times forms in every call; `known` holds milliseconds by key, of earlier exports too."""

    calls: Traffic
    target: Target
    known: dict[str, float]
    timer: Timer

    def times(self, spec: PlannedLayer, precision: str) -> dict[str, float]:
        """Return milliseconds by form, on the average over all calls; what is not known is timed and noted."""
        listed = candidates(spec, calls=self.calls, precision=precision, target=self.target)
        costs = {c.lowering: c.cost for c in listed if c.cost is not None}
        names = [name for name, cost in costs.items() if cost <= self.target.costs.error * min(costs.values())]
        measured = {call: self._in_call(spec, precision, names, call) for call in self.calls.calls}
        return {name: self.calls.per_call(lambda call: measured[call][name]) for name in names}  # noqa: B023

    def _in_call(self, spec: PlannedLayer, precision: str, names: Sequence[str], call: Call) -> dict[str, float]:
        keys = {name: _key(spec, name, precision, call, self.target) for name in names}
        if not all(key in self.known for key in keys.values()):
            models = {name: layer_model(spec, name, precision, self.calls, self.target) for name in names}
            measured = self.timer(models, spec, call, self.target.provider)
            self.known.update({keys[name]: ms for name, ms in measured.items()})
        return {name: self.known[key] for name, key in keys.items()}


def time_models(models: Mapping[str, ir.Model], spec: PlannedLayer, call: Call, provider: str) -> dict[str, float]:
    """Time graphs of one layer in turns.

    Returns:
        Fastest run of each, in milliseconds: the one that was least disturbed.
    """
    sessions = {name: _open(model, call.threads, provider) for name, model in models.items()}
    random = np.random.default_rng(0)
    whole = random.normal(size=(call.tokens, spec.in_features)).astype(np.float32)
    feeds = {"x": whole, "x_kept": whole[:, : spec.kept], "x_others": whole[:, spec.kept :]}
    inputs = {name: {i.name: feeds[i.name] for i in session.get_inputs()} for name, session in sessions.items()}
    best = dict.fromkeys(sessions, float("inf"))
    begin, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - begin < _LEAST_SECONDS * len(sessions):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, inputs[name])
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return {name: 1e3 * seconds for name, seconds in best.items()}


def _open(model: ir.Model, threads: int, provider: str) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=[provider])


def layer_model(
    spec: PlannedLayer, lowering: str, precision: str, calls: Calls | Traffic | None = None, target: Target = CPU
) -> ir.Model:
    """Return the graph of one layer with random weights, in one form: x (tokens, in) -> y (tokens, out)."""
    spec = replace(spec, whole=None)  # timed is what is left of a layer
    split = spec.order is not None and spec.order.split
    # A reader that needs its features side by side pays for the Concat, whoever writes it.
    model = _traced(spec, apart=split and (spec.axis == "in" or lowering == "folded"))
    plan = Plan({_NAME: LayerPlan(spec, lowering, "", {}, precision)}, (), Traffic.of(calls), precision, target.name)
    lowered = lower_model(model, plan, target)
    finished, marked = finish_planned(lowered, calls, precision=precision, layers={_NAME: precision}, target=target)
    return apply_precision(finished, precision, nodes=marked) if marked else finished


def _traced(spec: PlannedLayer, *, apart: bool) -> ir.Model:
    """Return what a trace would leave for the layer; `apart`: kept and other features come or go as two tensors."""
    float_type, opset = ir.TensorType(ir.DataType.FLOAT), {"": 23, DOMAIN: 1}
    nodes: list[ir.Node] = []

    def value(name: str, width: int) -> ir.Value:
        return ir.Value(name=name, type=float_type, shape=ir.Shape(["tokens", width]))

    graph_inputs = [value("x", spec.in_features)]
    x = graph_inputs[0]
    if apart and spec.axis == "in":
        graph_inputs = [value("x_kept", spec.kept), value("x_others", spec.in_features - spec.kept)]
        joined = ir.node("Concat", graph_inputs, {"axis": -1})
        nodes.append(joined)
        x = joined.outputs[0]
        x.type, x.shape = float_type, ir.Shape(["tokens", spec.in_features])
    weights = _random_weights(spec)
    node = ir.node(OP_TYPE, [x, *weights], domain=DOMAIN, version=1, metadata_props={SCOPE: _NAME})
    write_spec(node, replace(spec, pivot_side=None))  # forms are made from whole factors
    mark_order(node, spec.order)
    y = node.outputs[0]
    y.type, y.shape = float_type, ir.Shape(["tokens", spec.out_features])
    nodes.append(node)
    stored = [weight for weight in weights if weight is not None]
    graph = ir.Graph(graph_inputs, [], nodes=nodes, initializers=stored, opset_imports=opset, name=_NAME)
    graph.outputs.extend(_apart(graph, y, spec) if apart and spec.axis == "out" else [y])
    for place, output in enumerate(graph.outputs):
        output.name = f"y{place}"
    return ir.Model(graph, ir_version=11)


def _apart(graph: ir.Graph, y: ir.Value, spec: PlannedLayer) -> Sequence[ir.Value]:
    parts = []
    for start, stop in ((0, spec.kept), (spec.kept, spec.out_features)):
        bounds = [add_constant(graph, f"bound_{number}", np.array([number])) for number in (start, stop, -1)]
        node = ir.node("Slice", [y, *bounds])
        node.outputs[0].type, node.outputs[0].shape = y.type, ir.Shape(["tokens", stop - start])
        graph.append(node)
        parts.append(node.outputs[0])
    return parts


def _random_weights(spec: PlannedLayer) -> list[ir.Value | None]:
    random = np.random.default_rng(0)

    def stored(name: str, array: Any) -> ir.Value | None:
        if 0 in array.shape:
            return None
        tensor = ir.tensor(array, name=f"{_NAME}.{name}")
        value_type = ir.TensorType(tensor.dtype)
        return ir.Value(name=tensor.name, type=value_type, shape=ir.Shape(array.shape), const_value=tensor)

    def normal(*sizes: int) -> Any:
        return random.normal(0.0, sizes[-1] ** -0.5 if sizes[-1] else 1.0, sizes).astype(np.float32)

    out, into, rank, kept = spec.out_features, spec.in_features, spec.rank, spec.kept
    groups = out if spec.axis == "out" else into
    order = spec.order
    if order is not None and order.blocks and kept:
        each, width = kept // order.blocks, groups // order.blocks
        places = (np.arange(order.blocks)[:, None] * width + order.first + np.arange(each)).reshape(-1)
    else:
        places = np.sort(random.permutation(groups)[:kept])
    sparse = normal(kept, into) if spec.axis == "out" else normal(out, kept)
    arrays = {"u": normal(out, rank), "v": normal(rank, into), "sparse": sparse, "kept": places.astype(np.int64)}
    return [stored(name, array) for name, array in (arrays | {"bias": normal(out)}).items()]


def _key(spec: PlannedLayer, lowering: str, precision: str, call: Call, target: Target) -> str:
    where = f"{machine()['cpu']}, onnxruntime {import_onnxruntime().__version__}, threads {call.threads}"
    if (target.name, target.provider) != (CPU.name, CPU.provider):
        where += f", target {target.name} on {target.provider}"
    if precision == "int8":  # by which it was decided which products of the form are quantised
        where += f", costs {hashlib.sha256(repr(target.costs).encode()).hexdigest()[:8]}"
    order = "" if spec.order is None else ", order " + json.dumps(asdict(spec.order), sort_keys=True)
    return f"{where}; {call.tokens} tokens, {precision}; {spec.words}{order}; {lowering}"


_LONGEST_MS = 1e9  # no layer takes longer; what is beyond was not measured


def _read_times(file: Path) -> dict[str, float]:
    """Read the times that are known."""
    data = read_cached(file)
    times = {key: ms for key, ms in data.items() if isinstance(ms, int | float) and not isinstance(ms, bool)}
    return {key: float(ms) for key, ms in times.items() if 0 < ms < _LONGEST_MS}
