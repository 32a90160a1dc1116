"""Put features in the order that suits the layers around them, once and offline: scatters and gathers disappear.

First those that nobody needs are left out (`narrow`), then the others are ordered.

    up -> activation -> down                inner neurons may stand in any order, if both layers agree on it
    value -> attention -> output            so may the dimensions of a value inside its head
    query, key -> attention                 and those of queries and keys, inside a head and both alike

Where this holds is read off the graph (`region`), not off names. The order is: first what the writing layers keep, then
what only the reading ones keep, then the rest, of which a layer's pivots come first. It is written into the weights,
and noted on the layers (`layer.Order`), so that forms that need it can be planned. Sums over features are then taken in
another order: outputs are equal to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from losparse.layers.spanning_rows import spanning_rows

from ..graph.constants import stored
from ..graph.layer import Order
from ..graph.marks import REORDERED, mark_kind, mark_order, marks_of
from ..graph.node import DOMAIN, INPUTS, OP_TYPE, Array, FactoredNode, Mask, Places, read_factored
from ..graph.region import Region, Walker
from ..graph.side import Side, sides_of
from .narrow import find_narrow, narrow

Layers = tuple[tuple[str, ...], tuple[str, ...]]
"""Those at a fold, by which it is known: its writers and its readers."""


@dataclass(frozen=True)
class Fold:
    """One list of features and what became of it.

    Attributes:
        writers: qualified names of the layers that write the features.
        readers: of those that read them; none for queries and keys, which meet in the attention.
        blocks: heads, or 1.
        refused: why the features stay where they are; None where they were put in order.
        dropped: how many of them were left out, since nobody reads them or they are constant (`passes.narrow`).
        dropped_blocks: how many heads went with them.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    blocks: int
    refused: str | None
    dropped: int = 0
    dropped_blocks: int = 0

    @property
    def layers(self) -> Layers:
        """Its writers and its readers."""
        return self.writers, self.readers


def fold_model(model: ir.Model, *, skip: Sequence[Layers] = (), whole: Sequence[Layers] = ()) -> tuple[Fold, ...]:
    """Leave out features between layers that nobody needs, and put the others in order where a layer gains; in place.

    Args:
        model: as `prepare_model` leaves it.
        skip: lists of features to leave alone, each by its writers and its readers.
        whole: lists of features of which none is left out.

    Returns:
        What was found, in graph order: folds that were made, and those refused with the reason.
    """
    found = []
    for region in _regions(model.graph):
        sides = sides_of(region)
        if any(side.factored is not None for side in sides):
            refused = region.blocked
            if refused is None and _layers_at(sides) in skip:
                refused = "the plan says so"
            found.append((region, sides, refused))
    blocks = [region.blocks for region, _, _ in found]
    narrowed = find_narrow(
        model.graph, [(r, sides, refused is not None or _layers_at(sides) in whole) for r, sides, refused in found]
    )
    dropped = [(each.dropped, int((~each.heads).sum())) for each in narrowed]
    narrow(model.graph, narrowed)
    for (region, _, refused), each in zip(found, narrowed, strict=True):
        if refused is None and len(each.keep):
            _apply(model.graph, region, sides_of(region))
    return tuple(
        Fold(*_layers_at(sides), before, refused, *gone)
        for (_, sides, refused), before, gone in zip(found, blocks, dropped, strict=True)
    )


def _layers_at(sides: Sequence[Side]) -> Layers:
    writers = tuple(side.name for side in sides if side.writes)
    return writers, tuple(side.name for side in sides if not side.writes)


def _regions(graph: ir.Graph) -> list[Region]:
    walker = Walker(_is_layer, lambda node, index: _is_layer(node) and index == 0, through_attention=True)
    found: list[Region] = []
    for node in graph:
        starts = []
        if _is_layer(node):
            starts = [node.inputs[0], node.outputs[0]]
        for value in starts:
            if value is None or any(value in region.values for region in found):
                continue
            region = walker.find(value)
            if region is not None and region.sources:
                found.append(region)
    return found


def _is_layer(node: ir.Node) -> bool:
    if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
        return True
    if node.domain != "" or node.op_type != "MatMul":
        return False
    weight = node.inputs[1]
    return weight is not None and weight.const_value is not None and len(weight.const_value.shape) == 2


def _apply(graph: ir.Graph, region: Region, sides: list[Side]) -> None:
    keeping = [_as_mask(side.kept, region.width) for side in sides if side.kept is not None]
    first = keeping[0] if keeping else np.zeros(region.width, bool)
    second = next((mask for mask in keeping if not np.array_equal(mask, first)), first)
    alike = all(np.array_equal(mask, first) for mask in keeping)
    rank = np.where(first, np.where(second, 1, 0), np.where(second, 2, 3))  # lower comes first
    blocks = rank.reshape(region.blocks, -1)
    order = np.argsort(blocks, axis=1, kind="stable") + np.arange(region.blocks)[:, None] * blocks.shape[1]
    places = order.reshape(-1)
    pivoting = _pivoting_side(sides, region, int(first.sum())) if alike else None
    if pivoting is not None:
        places = _pivots_first(places, int(first.sum()), pivoting)
    for side in sides:
        _reorder(graph, side, places)
    for node, place in region.constants:
        vector = node.inputs[place]
        assert vector is not None and vector.const_value is not None
        node.replace_input_with(place, stored(graph, vector, vector.const_value.numpy()[..., places]))
    for node in [*region.nodes, *(side.node for side in sides if side.writes and side.factored is None)]:
        mark_kind(node, REORDERED)
    split = alike and region.blocks == 1 and all(side.kept is not None for side in sides)
    for side in sides:
        if side.factored is not None:
            if side.writes:
                mark_kind(side.node, REORDERED)
            laid = _order_of(side, region.blocks, pivots=side is pivoting, split=split)
            # A layer may have been put in order at its other side: the side of what it keeps is the one that counts.
            if laid.blocks or marks_of(side.node).order is None:
                mark_order(side.node, laid)


def _as_mask(kept: Places | None, width: int) -> Mask:
    mask = np.zeros(width, bool)
    if kept is not None:
        mask[kept] = True
    return mask


def _pivoting_side(sides: list[Side], region: Region, kept: int) -> Side | None:
    """Choose whose pivots stand behind the kept features: those of the layer of the largest rank."""
    if region.blocks != 1:
        return None
    able = [s for s in sides if 0 < s.rank <= region.width - kept]
    able = [s for s in able if kept == (0 if s.kept is None else len(s.kept))]  # pivots stand behind its own kept ones
    return max(able, key=lambda side: side.rank, default=None)


def _pivots_first(places: Places, kept: int, side: Side) -> Places:
    rest, stored = places[kept:], side.pivots
    # The layer's own pivots, if none of them is a kept feature: those stand in front of the pivots.
    if stored is not None and np.isin(stored, rest).all():
        pivots = np.flatnonzero(np.isin(rest, stored))
    else:
        factor = side.factor
        assert factor is not None, "only layers with a low-rank part pivot"
        pivots = spanning_rows(factor[rest])[0]
    return np.concatenate([places[:kept], rest[pivots], np.delete(rest, pivots)])


def _reorder(graph: ir.Graph, side: Side, places: Places) -> None:
    """Write an order into a layer's weights: feature `places[i]` becomes feature i."""
    node = side.node
    if side.factored is None:
        weight = node.inputs[1]
        assert weight is not None and weight.const_value is not None
        array = weight.const_value.numpy()
        node.replace_input_with(1, stored(graph, weight, array[:, places] if side.writes else array[places]))
        return
    # Read anew: a layer on both sides of the same features has been reordered once already.
    layer = read_factored(node)
    new = _reordered_factors(layer, places, side.writes) | _reordered_sparse(layer, places, side.writes)
    if side.writes:
        new["bias"] = _take(layer.bias_values, places, 0)
    for name, numbers in new.items():
        place = INPUTS.index(name)
        old = node.inputs[place] if place < len(node.inputs) else None
        if old is not None and numbers is not None:
            node.replace_input_with(place, stored(graph, old, numbers))


def _reordered_factors(layer: FactoredNode, places: Places, writes: bool) -> dict[str, Array | None]:
    """Return the factors, as they are stored, with outputs (or inputs) in another order."""
    name, axis = ("u", 0) if writes else ("v", 1)
    factors: dict[str, Array | None] = {"u": layer.u, "v": layer.v}
    if layer.pivots is None or (layer.spec.pivot_side == "out") != writes:
        return {name: _take(factors[name], places, axis)}
    # Stored are all but the pivots, which have the identity; inner dimension i belongs to pivot i.
    others = np.delete(np.arange(len(places)), layer.pivots)
    moved = np.searchsorted(others, places[~np.isin(places, layer.pivots)])
    pivots = np.argsort(places)[layer.pivots]
    inner = np.argsort(pivots)
    factors[name] = _take(factors[name], moved, axis)
    return {"u": _take(factors["u"], inner, 1), "v": _take(factors["v"], inner, 0), "pivots": pivots[inner]}


def _reordered_sparse(layer: FactoredNode, places: Places, writes: bool) -> dict[str, Array | None]:
    """Return the sparse part with outputs (or inputs) in another order, and which are kept."""
    if layer.sparse is None or layer.kept is None:
        return {}
    axis = 0 if writes else 1
    if (layer.spec.axis == "out") != writes:
        return {"sparse": np.take(layer.sparse, places, axis)}
    kept = np.argsort(places)[layer.kept]
    order = np.argsort(kept)
    return {"sparse": np.take(layer.sparse, order, axis), "kept": kept[order]}


def _take(array: Array | None, places: Places, axis: int) -> Any:
    return None if array is None else np.take(array, places, axis)


def _order_of(side: Side, blocks: int, *, pivots: bool, split: bool) -> Order:
    """Say how a layer's features lie now."""
    assert side.factored is not None
    layer = read_factored(side.node)
    name = "out" if side.writes else "in"
    if not layer.spec.kept:
        return Order(name, blocks, 0, pivots, split)
    if layer.spec.axis != name or layer.kept is None:
        return Order(name, 0)
    width = layer.spec.out_features if side.writes else layer.spec.in_features
    heads = _as_mask(layer.kept, width).reshape(blocks, -1)
    counts = heads.sum(1)
    first = int(heads[0].argmax())
    regular = (heads == heads[0]).all() and heads[0, first : first + counts[0]].all()
    return Order(name, blocks, first, pivots, split) if regular else Order(name, 0)
