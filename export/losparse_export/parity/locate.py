"""Find the layer at which an exported model leaves PyTorch's path.

Every PyTorch module without children is watched by a hook; in the graph, the nodes of a module carry its name, and the
last of them gives its output. The graph is run with those values as further outputs, and both sides are compared in
graph order. Where the graph's features stand in another order, the sorted features of every token are compared, which
no order changes and any other difference does; where some features were left out, each of the others with that feature
of the module that is nearest to it over all tokens; where a constant vector was moved elsewhere, the deviations from
the mean over all tokens.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from losparse_runtime.checking.bounds import allowed_difference
from losparse_runtime.contract.variant import MODEL_FILE
from losparse_runtime.dependencies import import_onnxruntime

from ..graph.marks import NARROWED, REORDERED, SHARED, SHIFTED
from ..graph.naming import module_of_path, unmarked
from ..opening.task_model import TaskModel
from ..target import CPU

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerDifference:
    """A layer whose outputs differ.

    Attributes:
        layer: qualified name of the module.
        max_abs: largest difference of its output; infinite where one side is not finite.
    """

    layer: str
    max_abs: float


def first_difference(
    model: TaskModel,
    folder: Path,
    feeds: Mapping[str, Array],
    tolerance: float,
    provider: str = CPU.provider,
    *,
    file: str = MODEL_FILE,
) -> LayerDifference | None:
    """Compare layer by layer.

    Args:
        model: the reference.
        folder: with the graph; a second one is written beside it for the time of the call.
        feeds: the inputs of one run.
        tolerance: allowed difference of outputs of magnitude 1; scaled with the largest output of the layer.
        provider: onnxruntime's name of what runs the graph.
        file: name of the graph's file.

    Returns:
        The first layer above the tolerance in graph order, or None.
    """
    for found, largest in layer_differences(model, folder, feeds, provider, file=file):
        if not found.max_abs <= allowed_difference(tolerance, largest):  # written so that NaN counts as a difference
            return found if math.isfinite(found.max_abs) else replace(found, max_abs=math.inf)
    return None


def layer_differences(
    model: TaskModel,
    folder: Path,
    feeds: Mapping[str, Array],
    provider: str = CPU.provider,
    *,
    file: str = MODEL_FILE,
) -> Iterator[tuple[LayerDifference, float]]:
    """Yield how far every layer's output is from PyTorch's, in graph order, where the graph has that output.

    Args:
        model: the reference.
        folder: see `first_difference`, as for the others.
        feeds: see there.
        provider: see there.
        file: see there.

    Yields:
        The difference, and the largest number of the layer's output; either may be NaN or infinite. A layer that is
        called several times comes as often.
    """
    with record_outputs(model) as expected:
        model.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
    mask = model.signature.mask_of(feeds).astype(bool)
    results = _run_with_probes(folder / file, feeds, {name: len(calls) for name, calls in expected.items()}, provider)
    for probe, call, values, stream in results:
        found = _difference(probe, expected[probe.layer][call], values, stream, mask)
        if found is not None:
            yield LayerDifference(probe.layer, found[0]), found[1]


def _difference(
    probe: _Probe, reference: Array, values: list[Array], stream: Array | None, mask: Array
) -> tuple[float, float] | None:
    """Return the largest difference of one output, and its largest number; None where the graph has another one."""
    actual = _side_by_side(values, reference.shape)
    if actual is None:
        return None  # its parts are not all in the graph
    if stream is not None:
        actual = actual - stream
    actual = _in_shape(actual, reference, narrowed=probe.kind == NARROWED)
    if actual is None:
        return None  # the graph computes it in another shape, as for a table that torch expands first
    if actual.shape[:2] == mask.shape:
        actual, reference = actual[mask], reference[mask]
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(reference).max(initial=0.0))
        if probe.kind == NARROWED:
            reference = _nearest(actual, reference)
        actual, reference = (_comparable(values, probe.kind) for values in (actual, reference))
        return float(np.abs(actual - reference).max(initial=0.0)), largest


def _in_shape(actual: Array, reference: Array, *, narrowed: bool) -> Array | None:
    """Put tokens that the graph flattened into one axis back into the rows they are of; None where shapes differ."""
    width = actual.shape[-1] if actual.ndim else 0
    if width != reference.shape[-1] and not (narrowed and 0 < width < reference.shape[-1]):
        return None
    flat = (math.prod(reference.shape[:-1]), width)
    shape = (*reference.shape[:-1], width)
    return actual.reshape(shape) if actual.shape in (flat, shape) else None


def _comparable(values: Array, kind: str) -> Array:
    if kind == REORDERED:
        return np.sort(values, axis=-1)
    return values - values.mean(axis=0) if kind == SHIFTED else values


def _nearest(values: Array, reference: Array) -> Array:
    """Return for every feature of `values` the one of the reference that is nearest over all tokens."""
    rows, others = values.reshape(-1, values.shape[-1]), reference.reshape(-1, reference.shape[-1])
    picked = [int(np.abs(others - row[:, None]).max(axis=0, initial=0.0).argmin()) for row in rows.T]
    return reference[..., picked]


@contextmanager
def record_outputs(model: TaskModel) -> Iterator[dict[str, list[Array]]]:
    """Collect what every module without children returns, by qualified name and call."""
    outputs: dict[str, list[Array]] = defaultdict(list)

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name].append(output.detach().numpy())

        return hook

    modules: Any = model.model
    leaves = [(name, module) for name, module in modules.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Probe:
    """What the graph holds of a layer's output.

    Attributes:
        layer: qualified name of the module.
        kind: as in `layer`, "" for exactly its output.
        values: the output, or the parts of it that stayed apart (`passes.segments`).
        stream: what was added to the output, to be taken off; None for nothing.
    """

    layer: str
    kind: str
    values: tuple[ir.Value, ...]
    stream: ir.Value | None = None


_Result = tuple[_Probe, int, list[Array], Array | None]


def _run_with_probes(
    graph: Path, feeds: Mapping[str, Array], calls: Mapping[str, int], provider: str
) -> Iterator[_Result]:
    """Run the graph; yield probe, call, values and stream, in graph order, of layers called as often on both sides."""
    model = ir.load(graph)
    found = _joined(model.graph, _layer_outputs(model.graph), calls)
    counts = Counter(probe.layer for probe in found)
    probes = [_with_stream(probe) for probe in found if counts[probe.layer] == calls.get(probe.layer)]
    values = dict.fromkeys(value for probe in probes for value in (*probe.values, probe.stream) if value is not None)
    for value in values:
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    # Beside the model: external weights are found relative to the graph, and a link to them would not be followed.
    file = graph.with_name("probe.onnx")
    try:
        ir.save(model, file)
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
        names = [value.name for value in values]
        results = dict(zip(values, session.run(names, dict(feeds)) if names else [], strict=True))
    finally:
        file.unlink(missing_ok=True)
    seen: Counter[str] = Counter()
    for probe in probes:
        stream = None if probe.stream is None else results[probe.stream]
        yield probe, seen[probe.layer], [results[value] for value in probe.values], stream
        seen[probe.layer] += 1


def _layer_outputs(graph: ir.Graph) -> list[_Probe]:
    """List the values that leave the nodes of a module, with the module, in graph order."""
    found = []
    for node in graph:
        layer, kind = unmarked(module_of_path(node.name or ""))
        for output in node.outputs:
            inside = any(unmarked(module_of_path(user.name or ""))[0] == layer for user, _ in output.uses())
            if layer and kind != SHARED and output.type is not None and not inside:
                found.append(_Probe(layer, kind, (output,)))
    return found


def _joined(graph: ir.Graph, probes: list[_Probe], calls: Mapping[str, int]) -> list[_Probe]:
    """Make one probe of the parts of an output that stayed apart."""
    parts: dict[str, list[_Probe]] = defaultdict(list)
    for probe in probes:
        parts[probe.layer].append(probe)
    joined = []
    for layer, own in parts.items():
        apart = len(own) > 1 and calls.get(layer) == 1 and all(probe.kind == REORDERED for probe in own)
        joined += [_Probe(layer, REORDERED, tuple(probe.values[0] for probe in own))] if apart else own
    places = {node: place for place, node in enumerate(graph)}
    return sorted(joined, key=lambda probe: places.get(probe.values[-1].producer(), 0))  # type: ignore[arg-type]


def _side_by_side(values: list[Array], shape: tuple[int, ...]) -> Array | None:
    """Put the parts of an output together, whose order does not matter; None where they do not make up its features.

    What a module computes beside its output, a number that its activation needs say, is no part of it.
    """
    if len(values) == 1:
        return values[0]
    rows = math.prod(shape[:-1])
    parts = [value.reshape(rows, -1) for value in values if value.ndim > 1 and math.prod(value.shape[:-1]) == rows]
    width = sum(part.shape[1] for part in parts)
    return np.concatenate(parts, axis=1).reshape(shape) if width == shape[-1] else None


def _with_stream(probe: _Probe) -> _Probe:
    """Find the residual stream that a layer's last Gemm or Add starts from."""
    node = probe.values[0].producer()
    if probe.kind != SHIFTED or node is None or node.op_type not in ("Gemm", "Add"):
        return probe
    return replace(probe, stream=_stream(node))


def _stream(node: ir.Node | None) -> ir.Value | None:
    """Follow a chain of Gemm to what it starts from."""
    value = None
    while node is not None and node.op_type == "Gemm":
        value = node.inputs[2] if len(node.inputs) > 2 else None
        node = None if value is None else value.producer()
    if node is not None and node.op_type == "Add" and value is None:
        value = node.inputs[1]
    return value if value is not None and value.const_value is None else None
