"""From calibration batches to factored layers, for the methods that need no training.

statistics   gradients of the dense model, where a method asks for them; moments of the inputs, group by group
sizes        what every layer keeps: by share, or by the error that each size leaves
layers       replaced as they are visited, so that later ones see what the compressed ones before them give
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from losparse_runtime.contract.progress import Phases

from ...calibration.gradients import output_sensitivity, squared_gradients
from ...calibration.observe import real_tokens, spread
from ...calibration.running import Batch
from ...calibration.statistics import LayerStatistics
from ...calibration.visit import Visit, visitor
from ...environment import release_memory
from ...errors import LosparseError
from ...layers.blocks import block_numbers
from ...layers.casting import finite
from ...layers.factored import FactoredLinear
from ...layers.joint import group_with_pivots, split
from ...layers.linear import replace_module, weight_of
from ...layers.pivots import pivots_where_possible
from ...models.roles import pivot_side_of
from .allocate import Candidates, Size, spend_globally
from .base import OneShot
from .search import OutputError
from .units import Unit, joint_units, single_units


def factorise_(
    model: nn.Module,
    method: OneShot,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch] = (),
    *,
    sequential: bool | None = None,
    store_pivots: bool = False,
    phases: Phases | None = None,
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
        store_pivots: store low-rank parts by pivots as soon as they are there, which also makes the passes that follow
            cheaper: at high ranks two plain factors cost more than the dense weight.
        phases: told how many batches are done, by what is done with them.

    Returns:
        Whether later layers saw the outputs of compressed ones; None where the method looks at no inputs.

    Raises:
        LosparseError: no calibration data where the method needs some, data that does not do, a budget that a layer
            cannot meet, or factors beyond the range of its dtype.
    """
    _check_batches(method, batches)
    # What is freed of a batch then has room for the next one; in another order memory fills with holes.
    batches = sorted(batches, key=real_tokens, reverse=True)
    phases = phases or Phases()
    known = _gradients(model, method, layers, batches, phases)
    release_memory()
    visit, in_order = visitor(model, layers, batches, method.statistics, sequential=sequential, phases=phases)
    visited = _UnitVisit(visit, joint_units(model, layers, batches[0]) if method.joint else single_units(layers), known)
    sizes = _sizes(model, method, layers, batches, visited, phases)
    placed: dict[str, FactoredLinear] = {}
    try:
        for unit, statistics in visited(sequential=in_order, last=True):
            factored = _factor_unit(method, unit, layers, statistics, sizes[unit.name], store_pivots=store_pivots)
            for name, new in factored.items():
                replace_module(model, layers[name], new.train(layers[name].training))
                placed[name] = new
            del statistics
    except BaseException:
        for name, layer in placed.items():
            replace_module(model, layer, layers[name])
        raise
    return in_order if method.statistics & {"gram", "square"} else None


def _check_batches(method: OneShot, batches: Sequence[Batch]) -> None:
    """Refuse to begin without the texts that a method looks at.

    Raises:
        LosparseError: it looks at some, and there are none.
    """
    if method.statistics and not batches:
        raise LosparseError(
            f"method {type(method).__name__} needs calibration data, got none; pass batches of texts"
            + (" with labels" if "fisher" in method.statistics else "")
        )
    if method.joint and not batches:
        raise LosparseError("joint=True runs the model to see which layers read the same input; pass a batch of texts")


@dataclass(frozen=True)
class _UnitVisit:
    """Visits every unit once, with all that is known of it.

    Attributes:
        visit: visits the layers.
        units: in which every layer is once.
        gradients: what is known of the layers' gradients already, by name.
    """

    visit: Visit
    units: Sequence[Unit]
    gradients: Mapping[str, LayerStatistics]

    def __call__(
        self, *, sequential: bool, chosen: Sequence[int] | None = None, last: bool = False
    ) -> Iterator[tuple[Unit, LayerStatistics]]:
        for group in self.visit(sequential=sequential, chosen=chosen, last=last):
            found = {name: _merge(statistics, self.gradients.get(name)) for name, statistics in group.items()}
            release_memory()
            # Layers that read the same tensor are visited together.
            yield from ((unit, unit.statistics(found)) for unit in self.units if unit.name in found)
            del group, found  # or they are held while the next group is looked at; so with whoever takes them


def _sizes(
    model: nn.Module,
    method: OneShot,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    visited: _UnitVisit,
    phases: Phases,
) -> dict[str, Size]:
    """Choose what every unit keeps, by its name."""
    if method.measured:
        measure = OutputError(model, batches, phases) if method.allocation == "search" else None
        looks = visited(sequential=False, chosen=spread(batches, ALLOCATION_TOKENS))
        return _measured_sizes(method, layers, visited.units, looks, measure)
    shapes = {unit.name: (sum(unit.outputs), _weight(layers[unit.name]).shape[1]) for unit in visited.units}
    return method.sizes(shapes, block_numbers(model, shapes))


def _factor_unit(
    method: OneShot,
    unit: Unit,
    layers: Mapping[str, nn.Module],
    statistics: LayerStatistics,
    size: Size,
    *,
    store_pivots: bool,
) -> dict[str, FactoredLinear]:
    """Return the factored layers of a unit by name."""
    weight, bias = unit.weight(layers), unit.bias(layers)
    new = finite(unit.name, _of_size(method, unit.name, method.factor(unit.name, weight, bias, statistics, size), size))
    # Plain factors of the same rank, where pivots would lose too much, are larger than the size says.
    overlap = new.rank * new.rank // sum(weight.shape) + 1
    small = size._replace(rank=max(1, size.rank - overlap))
    if len(unit.names) == 1:
        stored = pivots_where_possible(new, pivot_side_of(unit.name)) if store_pivots else new
        if store_pivots and stored.rank and stored.pivot_side is None:
            stored = method.factor(unit.name, weight, bias, statistics, small)
        return {unit.name: stored}
    parts = split(new, unit.outputs)
    if store_pivots and new.rank:
        joint = group_with_pivots(parts)
        if joint is None:
            joint = split(method.factor(unit.name, weight, bias, statistics, small), unit.outputs)
        parts = joint
    return dict(zip(unit.names, parts, strict=True))


def _of_size(method: OneShot, name: str, layer: FactoredLinear, size: Size) -> FactoredLinear:
    """Return a layer that a method made, which must have the size it was asked for: the budget counted that.

    Raises:
        LosparseError: it has another one.
    """
    made = Size(layer.rank, layer.kept_count)
    if made != size:
        raise LosparseError(
            f"{type(method).__name__}.factor must give {name!r} rank {size.rank} and {size.kept} kept, as asked, got "
            f"rank {made.rank} and {made.kept}; let its at_share and candidates return sizes that factor makes"
        )
    return layer


def _measured_sizes(
    method: OneShot,
    layers: Mapping[str, nn.Module],
    units: Sequence[Unit],
    statistics: Iterable[tuple[Unit, LayerStatistics]],
    measure: OutputError | None,
) -> dict[str, Size]:
    """Choose sizes by the error they leave: by the method's own account, or measured at the model's outputs."""
    found: dict[str, Candidates] = {}
    for unit, own in statistics:
        if measure is None:
            found[unit.name] = method.candidates(unit.name, unit.weight(layers), own)
            if not found[unit.name].sizes:
                raise LosparseError(
                    f"{type(method).__name__}.candidates must return at least one size of {unit.name!r}, got none; "
                    "dense_size(out_features) is always one"
                )
        else:
            found[unit.name] = measure.candidates(method, unit.name, layers[unit.name], own)
        del own
    dense = sum(_weight(layer).numel() for layer in layers.values())
    return spend_globally({unit.name: found[unit.name] for unit in units}, int(method.keep * dense + 1e-6))


ALLOCATION_TOKENS = 8192
"""About how many real tokens sizes are chosen on: how much each layer may hold needs less data than what it holds."""


def _weight(layer: nn.Module) -> Tensor:
    return weight_of(layer).detach()


def _gradients(
    model: nn.Module, method: OneShot, layers: Mapping[str, nn.Module], batches: Sequence[Batch], phases: Phases
) -> dict[str, LayerStatistics]:
    """Collect what a method wants to know of gradients; of the dense model, whatever comes later."""
    if "fisher" in method.statistics:
        return squared_gradients(
            model,
            layers,
            batches,
            getattr(method, "fisher", "exact"),
            lambda done: phases.more("squaring gradients", done, len(batches)),
        )
    if "sensitivity" in method.statistics:
        return output_sensitivity(
            model, layers, batches, lambda done: phases.more("weighing outputs", done, len(batches))
        )
    return {}


def _merge(statistics: LayerStatistics, gradients: LayerStatistics | None) -> LayerStatistics:
    return statistics if gradients is None else replace(gradients, inputs=statistics.inputs)
