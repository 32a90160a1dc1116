"""From calibration batches to factored layers, for the methods that need no training.

statistics   gradients of the dense model, where a method asks for them; moments of the inputs, group by group
sizes        what every layer keeps: by share, or by the error that each size leaves
layers       replaced as they are visited, so that later ones see what the compressed ones before them give
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from .allocate import Candidates, Size, spend_globally
from .calibration.gradients import output_sensitivity, squared_gradients
from .calibration.observe import Batch
from .calibration.statistics import LayerStatistics
from .calibration.visit import Progress, quiet, visitor
from .calibration.walk import block_numbers
from .errors import LosparseError
from .layers import FactoredLinear
from .methods.one_shot import OneShot
from .pivots import default_side, pivots_where_possible
from .search import OutputError
from .targets import bias_of, replace_module, weight_of


def fit_(
    model: nn.Module,
    method: OneShot,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch] = (),
    *,
    sequential: bool | None = None,
    pivots: bool = False,
    progress: Progress = quiet,
) -> bool | None:
    """Replace dense layers by the factored ones of a one-shot method, in place.

    If anything goes wrong, the model is as it was.

    Args:
        model: to change.
        method: what to do.
        layers: to replace, by qualified name, in the model's order.
        batches: of calibration data, as the model takes them; they are passed over several times.
        sequential: let later layers see the outputs of compressed ones; needs a model whose blocks run one by one.
            None does so where the model allows it.
        pivots: store low-rank parts by pivots as soon as they are there, which also makes the passes that follow
            cheaper: at high ranks two plain factors cost more than the dense weight.
        progress: told a stage's title and how many batches of it are done since the last call.

    Returns:
        Whether later layers saw the outputs of compressed ones; None where the method looks at no inputs.

    Raises:
        LosparseError: no calibration data where the method needs some, data that does not do, or a budget that a
            layer cannot meet.
    """
    if method.statistics and not batches:
        raise LosparseError(
            f"method {type(method).__name__} needs calibration data, got none; pass batches of texts"
            + (" with labels" if "fisher" in method.statistics else "")
        )
    known = _gradients(model, method, layers, batches, progress)
    visit, in_order = visitor(model, layers, batches, method.statistics, sequential=sequential, progress=progress)

    def groups(*, sequential: bool, batches: int | None = None) -> Iterator[tuple[str, LayerStatistics]]:
        for group in visit(sequential=sequential, batches=batches):
            for name, statistics in group.items():
                yield name, _merge(statistics, known.get(name))

    if method.measured:
        measure = OutputError(model, batches, progress) if method.allocation == "search" else None
        sizes = _measured_sizes(method, layers, groups(sequential=False, batches=_enough(batches)), measure)
    else:
        shapes = {name: (len(_weight(layer)), _weight(layer).shape[1]) for name, layer in layers.items()}
        sizes = method.sizes(shapes, block_numbers(model, layers))
    placed: dict[str, FactoredLinear] = {}
    try:
        for name, statistics in groups(sequential=in_order):
            old = layers[name]
            new = method.factor(name, _weight(old), bias_of(old), statistics, sizes[name])
            if pivots:
                new = pivots_where_possible(new, default_side(name))
            replace_module(model, old, new.train(old.training))
            placed[name] = new
    except BaseException:
        for name, layer in placed.items():
            replace_module(model, layer, layers[name])
        raise
    return in_order if method.statistics & {"gram", "square"} else None


def _measured_sizes(
    method: OneShot,
    layers: Mapping[str, nn.Module],
    statistics: Iterable[tuple[str, LayerStatistics]],
    measure: OutputError | None,
) -> dict[str, Size]:
    """Choose sizes by the error they leave: by the method's own account, or measured at the model's outputs."""
    found: dict[str, Candidates] = {}
    for name, own in statistics:
        if measure is None:
            found[name] = method.candidates(name, _weight(layers[name]), own)
        else:
            found[name] = measure.candidates(method, name, layers[name], own)
    dense = sum(_weight(layer).numel() for layer in layers.values())
    return spend_globally({name: found[name] for name in layers}, int(method.keep * dense + 1e-6))


ALLOCATION_TOKENS = 8192
"""Real tokens on which sizes are chosen: how much each layer may hold needs less data than what it holds."""


def _enough(batches: Sequence[Batch]) -> int:
    """Return how many batches hold the tokens that sizes are chosen on."""
    tokens = 0
    for number, batch in enumerate(batches, start=1):
        mask, ids = batch.get("attention_mask"), batch.get("input_ids")
        tokens += int(mask.sum()) if mask is not None else ids.numel() if ids is not None else 0
        if tokens >= ALLOCATION_TOKENS:
            return number
    return len(batches)


def _weight(layer: nn.Module) -> Tensor:
    return weight_of(layer).detach()


def _gradients(
    model: nn.Module, method: OneShot, layers: Mapping[str, nn.Module], batches: Sequence[Batch], progress: Progress
) -> dict[str, LayerStatistics]:
    """Collect what a method wants to know of gradients; of the dense model, whatever comes later."""
    if "fisher" in method.statistics:
        return squared_gradients(
            model,
            layers,
            batches,
            getattr(method, "fisher", "exact"),
            lambda done: progress("squaring gradients", done),
        )
    if "sensitivity" in method.statistics:
        return output_sensitivity(model, layers, batches, lambda done: progress("weighing outputs", done))
    return {}


def _merge(statistics: LayerStatistics, gradients: LayerStatistics | None) -> LayerStatistics:
    return statistics if gradients is None else replace(gradients, inputs=statistics.inputs)
