"""Leave features out of a graph: of the layers that write and read them, and of all between.

`narrow_region` is the way in. What stays is said by `keep`, sorted places of features; all else must be something that
nobody reads, or a constant, which then goes into the biases of the readers (`known`). Only sizes change: every node
stays the same kind of node, so whatever recognises layers and attention does so afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from losparse.layers.spec import LayerSpec, PivotSide

from .constants import add_constant, derived_name, new_node, stored
from .known import Known
from .marks import NARROWED, mark_kind, mark_whole
from .node import INPUTS, Array, FactoredNode, Places, read_factored, spec_of, write_spec
from .region import Region
from .side import Side, plain_weight

_Arrays = dict[str, Array | None]


def narrow_region(
    graph: ir.Graph, region: Region, sides: list[Side], keep: Places, known: Mapping[ir.Value, Known]
) -> None:
    """Leave out all features of a region but some; in place.

    Args:
        graph: it is in.
        region: that is not blocked, and for which `resizable` says None.
        sides: of the region.
        keep: the features that stay, sorted; none at all only where factored layers alone read them.
        known: what `known_features` says of the region's values.
    """
    for side in sides:
        if not side.writes:
            _add_to_bias(graph, side, _constant_part(side, keep, known))
    if not len(keep):
        for side in sides:
            _empty(graph, side)
        return
    for side in sides:
        _narrow_side(graph, side, keep)
    for node, place in region.constants:
        vector = node.inputs[place]
        assert vector is not None and vector.const_value is not None
        node.replace_input_with(place, stored(graph, vector, vector.const_value.numpy()[..., keep]))
    for node in region.nodes:
        if node.op_type == "Reshape":
            _narrow_reshape(graph, node, region.width, len(keep))
    for node in [*region.nodes, *(side.node for side in sides if side.writes)]:
        mark_kind(node, NARROWED)
    for value in region.values:
        if value.shape is not None:
            value.shape = ir.Shape([*value.shape.dims[:-1], len(keep)])
    region.width = len(keep)


def resizable(region: Region) -> str | None:
    """Say why no feature of a region can be left out, or None."""
    for node in region.nodes:
        if node.op_type == "Reshape" and _last_size(node.inputs[1]) not in (-1, region.width):
            return "a shape is computed from the number of features"
    return next((site.fixed for site in region.sites if site.fixed is not None), None)


def _constant_part(side: Side, keep: Places, known: Mapping[ir.Value, Known]) -> Array:
    """Return what a reading layer gets of the features that go; (out,), in double precision."""
    x = side.node.inputs[0]
    assert x is not None, "a layer has an input"
    weight, found = side.weight, known[x]
    gone = found.mask.copy()  # of what is not constant it has no weight
    gone[keep] = False
    return np.asarray(found.numbers[gone] @ weight[gone])


def _add_to_bias(graph: ir.Graph, side: Side, shift: Array) -> None:
    if not shift.any():
        return
    if side.factored is None:
        out = side.node.outputs[0]
        uses = list(out.uses())
        name = derived_name(side.node.inputs[1], "constant")
        constant = add_constant(graph, name, shift.astype(plain_weight(side.node).dtype))
        added = new_node(graph, side.node, "Add", [out, constant], like=out, scope=side.node)
        adder = added.producer()
        assert adder is not None
        graph.remove(adder)
        graph.insert_after(side.node, adder)
        for user, place in uses:
            user.replace_input_with(place, added)
        return
    layer = read_factored(side.node)
    old = 0.0 if layer.bias_values is None else layer.bias_values.astype(np.float64)
    _write(graph, layer, layer.spec, {"bias": (old + shift).astype(layer.dtype)})


def _narrow_side(graph: ir.Graph, side: Side, keep: Places) -> None:
    node = side.node
    if side.factored is None:
        weight = node.inputs[1]
        assert weight is not None
        array = plain_weight(node)
        node.replace_input_with(1, stored(graph, weight, array[:, keep] if side.writes else array[keep]))
        return
    layer = read_factored(node)  # anew: a layer on both sides of the same features is narrowed twice
    spec, arrays = _narrowed(layer, keep, writes=side.writes)
    if side.writes:
        arrays["bias"] = None if layer.bias_values is None else layer.bias_values[keep]
    _write(graph, layer, spec, arrays)


def _empty(graph: ir.Graph, side: Side) -> None:
    """Take all weights of a layer but its bias: it gives that, or nothing reads it."""
    if side.factored is not None:
        layer = read_factored(side.node)
        spec = replace(spec_of(layer.node), rank=0, kept=0, pivot_side=None, shares_v=False)
        _write(graph, layer, spec, dict.fromkeys(("u", "v", "sparse", "kept", "pivots")))


def _narrowed(layer: FactoredNode, keep: Places, *, writes: bool) -> tuple[LayerSpec, _Arrays]:
    """Return sizes and weights of a layer with some of its outputs, or inputs."""
    side = "out" if writes else "in"
    spec = spec_of(layer.node)
    out, in_ = (len(keep), spec.in_features) if writes else (spec.out_features, len(keep))
    if spec.rank > (in_ if spec.shares_v else min(out, in_)):
        return _merged(layer, keep, writes=writes)
    factors, pivot_side = _narrowed_factors(layer, keep, writes=writes)
    sparse: _Arrays = {}
    kept = spec.kept
    if layer.sparse is not None and layer.kept is not None:
        axis = 0 if writes else 1
        if spec.axis == side:
            stays = np.isin(layer.kept, keep)
            sparse = {"sparse": layer.sparse.compress(stays, axis), "kept": np.searchsorted(keep, layer.kept[stays])}
            kept = int(stays.sum())
        else:
            sparse = {"sparse": np.take(layer.sparse, keep, axis)}
    if not kept:
        sparse = {"sparse": None, "kept": None}
    sizes = LayerSpec(out, in_, spec.rank, kept, spec.axis, spec.bias, pivot_side, spec.shares_v)
    return sizes, {**factors, **sparse}


def _merged(layer: FactoredNode, keep: Places, *, writes: bool) -> tuple[LayerSpec, _Arrays]:
    """Return the layer with whole rows (or columns) alone: so few of them have no use for a low-rank part."""
    weight = layer.dense_weight()
    weight = (weight[keep] if writes else weight[:, keep]).astype(layer.dtype)
    out, in_ = weight.shape
    groups = out if layer.spec.axis == "out" else in_
    spec = LayerSpec(out, in_, rank=0, kept=groups, axis=layer.spec.axis, bias=layer.bias is not None)
    gone: _Arrays = {"u": None, "v": None, "pivots": None}
    return spec, {**gone, "sparse": weight, "kept": np.arange(groups)}


def _narrowed_factors(layer: FactoredNode, keep: Places, *, writes: bool) -> tuple[_Arrays, PivotSide | None]:
    """Return the factors as they are stored, with some of the outputs (or inputs), and the side of the pivots."""
    if not layer.spec.rank:
        return {}, None
    name, axis = ("u", 0) if writes else ("v", 1)
    side: PivotSide = "out" if writes else "in"
    stored_factor = layer.u if writes else layer.v
    if layer.pivots is None or layer.spec.pivot_side != side:
        return {name: None if stored_factor is None else np.take(stored_factor, keep, axis)}, layer.spec.pivot_side
    if not np.isin(layer.pivots, keep).all():
        whole = layer.whole_u if writes else layer.whole_v
        assert whole is not None, "the layer has a low-rank part"
        return {name: np.take(whole, keep, axis), "pivots": None}, None
    size = layer.spec.out_features if writes else layer.spec.in_features
    stays = np.isin(np.delete(np.arange(size), layer.pivots), keep)
    factor = None if stored_factor is None or not stays.any() else stored_factor.compress(stays, axis)
    return {name: factor, "pivots": np.searchsorted(keep, layer.pivots)}, side


def _write(graph: ir.Graph, layer: FactoredNode, spec: LayerSpec, arrays: Mapping[str, Array | None]) -> None:
    """Put other weights and sizes on a layer's node; arrays of None are taken off, those not named stay."""
    node = layer.node
    mark_whole(node, spec_of(layer.node))
    write_spec(node, spec)
    node.resize_inputs(len(INPUTS))
    for name, array in arrays.items():
        place = INPUTS.index(name)
        old = node.inputs[place]
        if array is None:
            node.replace_input_with(place, None)
        elif old is None:
            node.replace_input_with(place, add_constant(graph, f"{layer.name}.{name}", array))
        else:
            node.replace_input_with(place, stored(graph, old, array))


def _last_size(sizes: ir.Value | None) -> int | None:
    """Return the last number of a shape, where it is a constant."""
    if sizes is None:
        return None
    if sizes.const_value is not None:
        return int(sizes.const_value.numpy().reshape(-1)[-1])
    concat = sizes.producer()
    if concat is None or concat.op_type != "Concat" or concat.inputs[-1] is None:
        return None
    last = concat.inputs[-1].const_value
    return int(last.numpy().reshape(-1)[-1]) if last is not None else None


def _narrow_reshape(graph: ir.Graph, node: ir.Node, width: int, new: int) -> None:
    """Let a Reshape give another number of features."""
    sizes = node.inputs[1]
    assert sizes is not None
    if _last_size(sizes) != width:
        return  # the rest of what comes in
    if sizes.const_value is not None:
        array = sizes.const_value.numpy().copy()
        array[-1] = new
        node.replace_input_with(1, _shape_constant(graph, array))
        return
    concat = sizes.producer()
    assert concat is not None, "`resizable` saw a Concat"
    last = _shape_constant(graph, np.array([new]))
    before = concat.inputs[0]
    assert before is not None, "a Concat joins something"
    known = [user.outputs[0] for user, _ in before.uses() if list(user.inputs) == [*concat.inputs[:-1], last]]
    inputs = [*concat.inputs[:-1], last]
    node.replace_input_with(
        1, known[0] if known else new_node(graph, concat, "Concat", inputs, like=sizes, scope=concat, axis=0)
    )


def _shape_constant(graph: ir.Graph, array: Array) -> ir.Value:
    """Return a constant of these numbers, of the graph where it has it."""
    name = "_".join(["narrow", *(str(number).replace("-", "rest") for number in array.tolist())])
    found = graph.initializers.get(name)
    return add_constant(graph, name, array.astype(np.int64)) if found is None else found
