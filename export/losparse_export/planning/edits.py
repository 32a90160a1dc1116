"""What of a plan may be edited: the form and precision of a layer, whether a fold is made and drops features.

Everything else in a plan says what was found in the model. Where it says something else it is refused: an edit that
changes nothing would look as if it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from losparse.errors import LosparseError

from ..graph.layer import Order, PlannedLayer
from ..passes.fold import Fold, Layers
from .plan import Plan

_WAY_OUT = (
    "of a plan, edit the lowering and precision of layers, and refused (a text: not made; null: made) and dropped (0: "
    "none) of folds, or make a plan for this model"
)


def switched_off(plan: Plan, found: Sequence[Fold]) -> tuple[Layers, ...]:
    """Return the folds that a plan refuses though they could be made.

    Args:
        plan: as it was given.
        found: what `fold_model` returns for the model, without a plan.
    """
    possible = {layers for layers, folds in _by_layers(found).items() if _made(folds)}
    return tuple(layers for layers, folds in _by_layers(plan.folds).items() if layers in possible and not _made(folds))


def left_whole(plan: Plan, found: Sequence[Fold]) -> tuple[Layers, ...]:
    """Return the folds that could drop features and drop none in a plan, as those do that were made before it was done.

    Args:
        plan: as it was given.
        found: what `fold_model` returns for the model, without a plan.
    """
    dropping = {layers for layers, folds in _by_layers(plan.folds).items() if any(fold.dropped for fold in folds)}
    return tuple({fold.layers: None for fold in found if fold.dropped and fold.layers not in dropping})


def check_edits(plan: Plan, found: Sequence[Fold], specs: Sequence[Mapping[str, PlannedLayer]]) -> None:
    """Refuse a plan whose folds or orders are not those of the model.

    A plan without folds and orders was made before folding: it is for the folded model all the same.

    Args:
        plan: as it was given, for the layers of this model.
        found: what `fold_model` returns for the model, without a plan.
        specs: of its layers, with every fold that can be made; and with those alone that the plan makes.

    Raises:
        LosparseError: a fold too few, one too many, or one that is not as in the model or cannot be made; or an order
            of a layer that is in none of `specs`.
    """
    if not plan.folds and all(layer.spec.order is None for layer in plan.layers.values()):
        return
    planned, mine = _by_layers(plan.folds), _by_layers(found)
    for layers in planned:
        if layers not in mine:
            raise LosparseError(f"the plan has a fold of {_named(layers)}, which the model has not; {_WAY_OUT}")
    for layers, folds in mine.items():
        if layers not in planned:
            raise LosparseError(f"the plan says nothing about the fold of {_named(layers)}; {_WAY_OUT}")
        _check_fold(layers, planned[layers], folds)
    for name, layer in plan.layers.items():
        orders, sizes = ([each(known[name]) for known in specs] for each in (_order, _sizes))
        if layer.spec.order not in orders:
            raise LosparseError(f"the plan's order of layer {name!r} is not the model's ({orders[0]}); {_WAY_OUT}")
        if _sizes(layer.spec) not in sizes:
            raise LosparseError(
                f"the plan's narrowed of layer {name!r} is not the model's ({sizes[0]}), got {_sizes(layer.spec)}; "
                f"{_WAY_OUT}"
            )


def _order(layer: PlannedLayer) -> Order | None:
    return layer.order


def _sizes(layer: PlannedLayer) -> str:
    return layer.words


def _check_fold(layers: Layers, planned: Sequence[Fold], mine: Sequence[Fold]) -> None:
    """Check the folds between the same layers: mostly one, several where layers are called several times."""
    blocks, known = (sorted(fold.blocks for fold in folds) for folds in (planned, mine))
    if blocks != known:
        got, is_so = (", ".join(map(str, each)) for each in (blocks, known))
        raise LosparseError(f"the plan's fold of {_named(layers)} has blocks {got}, the model's {is_so}; {_WAY_OUT}")
    drops, able = ([(fold.dropped, fold.dropped_blocks) for fold in folds] for folds in (planned, mine))
    if _made(planned) and any(each != (0, 0) for each in drops) and sorted(drops) != sorted(able):
        got, is_so = (", ".join(str(features) for features, _ in each) for each in (drops, able))
        raise LosparseError(f"the plan's fold of {_named(layers)} has dropped {got}, the model's {is_so}; {_WAY_OUT}")
    if _made(planned) not in (0, _made(mine)):
        why = next((fold.refused for fold in mine if fold.refused is not None), "all between these layers, or none")
        raise LosparseError(f"the plan's fold of {_named(layers)} cannot be made ({why}); {_WAY_OUT}")


def _by_layers(folds: Sequence[Fold]) -> dict[Layers, list[Fold]]:
    grouped: dict[Layers, list[Fold]] = {}
    for fold in folds:
        grouped.setdefault(fold.layers, []).append(fold)
    return grouped


def _made(folds: Sequence[Fold]) -> int:
    return sum(fold.refused is None for fold in folds)


def _named(layers: Layers) -> str:
    writers, readers = (", ".join(map(repr, names)) for names in layers)
    return f"{writers or 'no layer'} and {readers}" if readers else writers or "no layer"
