"""Leave features out that nobody reads or that are constant, and heads that keep nothing: layers become narrow.

    up -> activation -> down        a neuron of which up keeps nothing is a number: it goes into down's bias; one that
                                    down does not read is not computed
    value -> attention -> output    so with the dimensions of a value: an average of one number is that number
    query, key -> attention         a dimension whose key is constant adds the same to every score of a query, which
                                    softmax does not see

A head of which value and output need nothing goes with its queries and keys. The heads that are left are equally wide,
as attention asks for: where they need unequal numbers of dimensions, the narrower ones keep some that are zero. Where
all heads of a block go, or all neurons, the reading layers give their biases alone, and attention disappears.

It is exact, up to the order of sums. `find_narrow` decides and changes nothing, `narrow` carries it out; both take any
region, so attention in another shape needs only another `graph.site.Site`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from ..graph.known import Known, known_features
from ..graph.marks import scope_of
from ..graph.node import OP_TYPE, Mask, Places, spec_of, write_spec
from ..graph.region import Region
from ..graph.resize import narrow_region, resizable
from ..graph.side import Side
from ..graph.site import Site


@dataclass(eq=False)
class Narrow:
    """One region, and what of it stays.

    Attributes:
        region: as the walker found it.
        sides: its layers.
        whole: whether all its features stay, whatever is in them.
        idle: the features that could go; (width,).
        known: what is known of its values.
        keep: sorted places of the features that stay.
        heads: the blocks that stay; (blocks,).
    """

    region: Region
    sides: list[Side]
    whole: bool
    idle: Mask = field(init=False)
    known: dict[ir.Value, Known] = field(default_factory=dict)
    keep: Places = field(init=False)
    heads: Mask = field(init=False)

    def __post_init__(self) -> None:
        """Begin with everything."""
        self.idle = np.zeros(self.region.width, bool)
        self.stay_whole()

    def stay_whole(self) -> None:
        """Keep everything."""
        self.keep, self.heads = np.arange(self.region.width), np.ones(self.region.blocks, bool)

    @property
    def dropped(self) -> int:
        """Features that go."""
        return self.region.width - len(self.keep)

    @property
    def carries_values(self) -> bool:
        """Whether its features go through attention, and do not only meet in it."""
        return any(site.output in self.region.values for site in self.region.sites)

    @property
    def may_vanish(self) -> bool:
        """Whether all that read it are factored layers, which may be left with their biases alone."""
        return all(side.factored is not None for side in self.sides if not side.writes)

    def idle_heads(self) -> Mask:
        """Return the blocks of which no feature is needed; (blocks,)."""
        return np.asarray(self.idle.reshape(self.region.blocks, -1).all(axis=1))


def find_narrow(graph: ir.Graph, regions: Sequence[tuple[Region, list[Side], bool]]) -> list[Narrow]:
    """Decide what of every region stays.

    Args:
        graph: they are in.
        regions: every region with its layers, and whether it is to stay whole.

    Returns:
        One for each region, in their order.
    """
    places = {node: place for place, node in enumerate(graph)}
    found = [Narrow(region, sides, whole or _immovable(region)) for region, sides, whole in regions]
    for each in found:
        if not each.whole:
            each.known = known_features(each.region, each.sides, places)
            each.idle = _idle(each)
    _choose(found)
    # A layer that is called twice is one layer of a plan: where its calls would lose different features it loses none.
    while uneven := _uneven(graph, found):
        for each in uneven:
            each.whole = True
        _choose(found)
    return found


def narrow(graph: ir.Graph, found: Sequence[Narrow]) -> None:
    """Leave out what `find_narrow` found; in place. Layers have to be read anew afterwards (`graph.side.sides_of`)."""
    widths = {site: _head_width(found, site) for each in found for site in each.region.sites}
    heads = {site: each.heads for each in found for site in each.region.sites if each.carries_values}
    gone = [each for each in found if not len(each.keep)]
    for site, width in widths.items():
        touched = [each for each in found if site in each.region.sites and each.dropped]
        if touched and not any(each in gone for each in touched):
            site.resize(graph, heads.get(site, np.ones(touched[0].region.blocks, bool)), width)
    streams = [(each, _stream(found, each)) for each in gone]
    for each in found:
        if each.dropped:
            narrow_region(graph, each.region, each.sides, each.keep, each.known)
            each.region.blocks = int(each.heads.sum())
    for each, stream in streams:
        for side in each.sides:
            _read_instead(side, stream)


def _immovable(region: Region) -> bool:
    return region.blocked is not None or resizable(region) is not None


def _idle(each: Narrow) -> Mask:
    """Return the features that no layer reads, or that are constant, and that no score depends on; (width,)."""
    region = each.region
    idle = np.ones(region.width, bool)
    for side in each.sides:
        if not side.writes:
            x = side.node.inputs[0]
            assert x is not None, "a layer has an input"
            idle &= ~side.live | each.known[x].mask
    for site in region.sites:
        if site.query in region.values or site.key in region.values:
            idle &= _unseen(site, each.known)
    return idle


def _unseen(site: Site, known: dict[ir.Value, Known]) -> Mask:
    """Return the dimensions of queries and keys that add nothing to a score that softmax would see; (width,)."""
    query, key = known[site.query], known[site.key]
    nothing = (query.mask & (query.numbers == 0)) | (key.mask & (key.numbers == 0))
    return np.asarray(nothing if site.capped else nothing | key.mask)


def _choose(found: Sequence[Narrow]) -> None:
    for group in _groups(found):
        heads = np.ones(group[0].region.blocks, bool)
        values = [each for each in group if each.carries_values]
        # Heads go from everything that attention reads, or not at all.
        if values and len(values) < len(group) and not any(each.whole for each in group):
            heads = ~np.logical_and.reduce([each.idle_heads() for each in values])
        vanish = not heads.any() and all(each.may_vanish for each in group)
        if not heads.any() and not vanish:
            heads[0] = True
        for each in group:
            if each.whole:
                each.stay_whole()
            else:
                each.heads = heads
                free = each.may_vanish and not each.region.sites
                each.keep = _even(each.idle, heads, least=0 if free or vanish else 1)


def _groups(found: Sequence[Narrow]) -> list[list[Narrow]]:
    """Put regions together that lose the same heads: those that have attention in common, directly or by others."""
    groups: list[list[Narrow]] = []
    for each in found:
        shared = [group for group in groups if any(_meet(each, other) for other in group)]
        groups = [group for group in groups if group not in shared]
        groups.append([*(other for group in shared for other in group), each])
    return groups


def _meet(a: Narrow, b: Narrow) -> bool:
    return any(site in b.region.sites for site in a.region.sites)


def _even(idle: Mask, heads: Mask, *, least: int) -> Places:
    """Return the features that stay: as many in every head that does, which is as many as the widest needs."""
    live = ~idle.reshape(len(heads), -1)
    live[~heads] = False
    count = max(least, int(live.sum(axis=1).max(initial=0)))
    # Needed ones before others, and every one in its place among those that stay.
    first = np.sort(np.argsort(~live, axis=1, kind="stable")[:, :count], axis=1)
    whole = first + np.arange(len(heads))[:, None] * live.shape[1]
    return np.asarray(whole[heads].reshape(-1), dtype=np.int64)


def _uneven(graph: ir.Graph, found: Sequence[Narrow]) -> list[Narrow]:
    """Return the regions that would lose features of a layer which its other calls keep."""
    calls = Counter(scope_of(node) for node in graph if node.op_type == OP_TYPE)
    seen: dict[tuple[str, bool], list[Narrow]] = {}
    for each in found:
        for side in each.sides:
            if side.factored is not None and calls[side.name] > 1:
                seen.setdefault((side.name, side.writes), []).append(each)
    uneven = []
    for (name, _), regions in seen.items():
        if len({each.keep.tobytes() for each in regions}) > 1 or len(regions) < calls[name]:
            uneven += [each for each in regions if not each.whole and each.dropped]
    return uneven


def _head_width(found: Sequence[Narrow], site: Site) -> int:
    """Return the dimensions of a head's keys before anything goes."""
    shape = site.key.shape
    heads = next(each.region.blocks for each in found if site in each.region.sites)
    assert shape is not None and isinstance(shape[-1], int), "the features of a region are counted"
    return shape[-1] // heads


def _stream(found: Sequence[Narrow], each: Narrow) -> ir.Value | None:
    """Return a value with the tokens of a region's readers, from before all that writes it."""
    writers = [side.node for side in each.sides if side.writes]
    for site in each.region.sites:
        queries = [other for other in found if site.query in other.region.values]
        outputs = [side.node for other in queries for side in other.sides if side.writes]
        writers = [node for node in outputs if node.outputs[0] in _behind(site.query)] or writers
    return writers[0].inputs[0] if writers else None


def _behind(value: ir.Value) -> list[ir.Value]:
    """Return a value and those it is made from by first inputs."""
    seen, node = [value], value.producer()
    while node is not None and node.inputs and node.inputs[0] is not None and node.inputs[0] not in seen:
        seen.append(node.inputs[0])
        node = node.inputs[0].producer()
    return seen


def _read_instead(side: Side, stream: ir.Value | None) -> None:
    """Let a layer that only gives its bias hang on something that is there anyway."""
    x = side.node.inputs[0]
    if side.writes or stream is None or x is None or stream.shape is None or x.shape is None:
        return
    width = stream.shape[-1]
    if len(stream.shape) == len(x.shape) and isinstance(width, int):
        side.node.replace_input_with(0, stream)
        write_spec(side.node, replace(spec_of(side.node), in_features=width))
