"""Find the layer at which an exported model leaves PyTorch's path.

Every PyTorch module without children is watched by a hook; in the graph, the nodes of a module carry its name, and the
last of them gives its output. The graph is run with those values as further outputs, and both sides are compared in
graph order.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .passes.naming import module_of_path
from .tasks import TaskModel

Array = NDArray[Any]


# Outputs smaller than this are compared as if they were of this magnitude: they are differences of larger numbers.
_SMALLEST_SCALE = 0.1


def allowed_difference(tolerance: float, *magnitudes: float) -> float:
    """Scale a tolerance for outputs of magnitude 1 to the largest of some magnitudes."""
    return tolerance * max(_SMALLEST_SCALE, *magnitudes)


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
    model: TaskModel, folder: Path, feeds: Mapping[str, Array], tolerance: float
) -> LayerDifference | None:
    """Compare layer by layer.

    Args:
        model: the reference.
        folder: with `model.onnx`; a second graph is written beside it for the time of the call.
        feeds: the inputs of one run.
        tolerance: allowed difference of outputs of magnitude 1; scaled with the largest output of the layer.

    Returns:
        The first layer above the tolerance in graph order, or None.
    """
    with record_outputs(model) as expected:
        model.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
    mask = feeds["attention_mask"].astype(bool)
    for layer, call, actual in _run_with_probes(folder, feeds, {name: len(calls) for name, calls in expected.items()}):
        reference = expected[layer][call]
        if reference.ndim == 3 and actual.shape == (reference.shape[0] * reference.shape[1], reference.shape[2]):
            actual = actual.reshape(reference.shape)  # tokens of all rows were flattened into one axis
        if actual.shape != reference.shape:
            continue  # the graph computes it in another shape, as for a table that torch expands first
        if actual.shape[:2] == mask.shape:
            actual, reference = actual[mask], reference[mask]
        with np.errstate(invalid="ignore"):
            difference = float(np.abs(actual - reference).max(initial=0.0))
            allowed = allowed_difference(tolerance, float(np.abs(reference).max(initial=0.0)))
        if not difference <= allowed:  # written so that NaN counts as a difference
            return LayerDifference(layer, difference if math.isfinite(difference) else math.inf)
    return None


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


def _run_with_probes(
    folder: Path, feeds: Mapping[str, Array], calls: Mapping[str, int]
) -> Iterator[tuple[str, int, Array]]:
    """Run the graph and yield layer, call and output, in graph order, for layers called as often on both sides."""
    model = ir.load(folder / "model.onnx")
    values = _layer_outputs(model.graph)
    counts = {layer: sum(layer == other for other, _ in values) for layer, _ in values}
    probes = [(layer, value) for layer, value in values if counts[layer] == calls.get(layer)]
    for _, value in probes:
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    # Beside the model: external weights are found relative to the graph, and a link to them would not be followed.
    file = folder / "probe.onnx"
    try:
        ir.save(model, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [value.name for _, value in probes]
        results = session.run(names, dict(feeds)) if names else []
    finally:
        file.unlink(missing_ok=True)
    seen: dict[str, int] = defaultdict(int)
    for (layer, _), result in zip(probes, results, strict=True):
        yield layer, seen[layer], result
        seen[layer] += 1


def _layer_outputs(graph: ir.Graph) -> list[tuple[str, ir.Value]]:
    """List the values that leave the nodes of a module, with the module, in graph order."""
    found = []
    for node in graph:
        layer = module_of_path(node.name or "")
        for output in node.outputs:
            inside = any(module_of_path(user.name or "") == layer for user, _ in output.uses())
            if layer and output.type is not None and not inside:
                found.append((layer, output))
    return found
