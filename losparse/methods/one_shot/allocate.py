"""How a budget is spent: one `keep` for the whole model, a size for every layer.

    uniform        every layer the same share of its parameters
    uniform-rank   every layer the same rank (LPAF)
    last-k         the last blocks the same share, the first ones dense (LLM-ROM)
    by-type        shares in given proportions by the layers' names (LoRAP)
    global         where it removes most error per stored parameter
    search         the same, with the error measured at the model's outputs (SFSD)

A method describes each layer by `Candidates`: sizes it could have, what each stores, and the error that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import LosparseError
from ...layers.patterns import matches

Array = NDArray[np.float64]


class Size(NamedTuple):
    """What a layer keeps: its rank, and how many rows (or columns) beside it; both 0 and more."""

    rank: int
    kept: int = 0


def dense_size(out_features: int) -> Size:
    """Return the size of a layer that stays as it is: every row is kept."""
    return Size(0, out_features)


@dataclass(frozen=True)
class Candidates:
    """The sizes one layer could have.

    Attributes:
        sizes: rising in cost.
        costs: stored parameters of each; (n,).
        errors: what each leaves of the error that the method minimises, in a unit all layers share; (n,).
    """

    sizes: Sequence[Size]
    costs: Array
    errors: Array

    def hull(self) -> list[int]:
        """Return the candidates that are best for some price per parameter: the lower convex hull, by rising cost.

        Between two of its neighbours error falls by less and less per parameter, so that taking steps in the order
        of what they give is the best way to spend any budget that is used up exactly (Everett, 1963).
        """
        order = np.lexsort((self.errors, self.costs))
        hull: list[int] = []
        for place in order:
            if hull and self.errors[place] >= self.errors[hull[-1]]:
                continue
            while len(hull) > 1 and self._slope(hull[-2], hull[-1]) < self._slope(hull[-2], place):
                hull.pop()
            hull.append(int(place))
        return hull

    def _slope(self, first: int, second: int) -> float:
        """Return the error removed per parameter from one candidate to a dearer one."""
        more = float(self.costs[second] - self.costs[first])
        gained = float(self.errors[first] - self.errors[second])
        return gained / more if more > 0 else float("inf")


def spend_globally(layers: Mapping[str, Candidates], budget: int) -> dict[str, Size]:
    """Choose a size for every layer so that the sum of errors is as small as the budget allows.

    Every layer begins at its cheapest size; then the step of whatever layer that removes most error per parameter is
    taken, as long as it fits. The order is by gain, then by layer, so the choice is the same everywhere.

    Args:
        layers: candidates by qualified name.
        budget: parameters, in all.

    Returns:
        Sizes by name; the budget is only exceeded when the cheapest sizes already do.
    """
    hulls = {name: candidates.hull() for name, candidates in layers.items()}
    place = dict.fromkeys(layers, 0)
    left = budget - sum(float(layers[name].costs[hull[0]]) for name, hull in hulls.items())
    steps = [
        (-layers[name]._slope(hull[i], hull[i + 1]), number, i + 1, name)
        for number, (name, hull) in enumerate(hulls.items())
        for i in range(len(hull) - 1)
    ]
    for _, _, target, name in sorted(steps):
        hull, now = hulls[name], place[name]
        more = float(layers[name].costs[hull[target]] - layers[name].costs[hull[now]])
        # A step that did not fit closes its layer: a later one costs more still.
        if target == now + 1 and more <= left:
            place[name], left = target, left - more
    chosen = {name: hulls[name][place[name]] for name in layers}
    # What no whole step could use still buys sizes between two of them.
    for name, candidates in layers.items():
        now = chosen[name]
        fits = np.flatnonzero(candidates.costs - candidates.costs[now] <= left)
        best = int(fits[np.argmin(candidates.errors[fits])])
        if candidates.errors[best] < candidates.errors[now]:
            chosen[name] = best
            left -= float(candidates.costs[best] - candidates.costs[now])
    return {name: layers[name].sizes[chosen[name]] for name in layers}


def uniform_rank(shapes: Sequence[tuple[int, int]], keep: float, cost: Callable[[Size, int, int], int]) -> int:
    """Return the largest rank that, taken by every layer that it makes smaller, stores at most `keep` of them all.

    References:
        LPAF, arXiv:2306.14152: ranks 260, 130 and 80 for BERT-base's layers, whatever their shape.
    """
    dense = sum(out * width for out, width in shapes)

    def stored(rank: int) -> int:
        return sum(
            min(cost(Size(rank), *shape), shape[0] * shape[1]) if rank < min(shape) else shape[0] * shape[1]
            for shape in shapes
        )

    fitting = [rank for rank in range(1, max(min(shape) for shape in shapes) + 1) if stored(rank) <= keep * dense]
    return max(fitting, default=1)


LAST_SHARE = 1 / 3
"""What LLM-ROM leaves of its last blocks at its smallest budget."""


def last_blocks(
    parameters: Mapping[str, int], blocks: Mapping[str, int], keep: float, count: int | None
) -> dict[str, float]:
    """Return the share of every layer when only the last blocks are compressed, all to the same share.

    Args:
        parameters: of every layer, dense.
        blocks: number of the block a layer is in; layers outside blocks stay dense.
        keep: share of all layers together.
        count: blocks to compress; None takes the fewest that are left `LAST_SHARE` each.

    Raises:
        LosparseError: that many blocks hold too little to meet the budget, or there are not so many.

    References:
        LLM-ROM, arXiv:2312.07046, section 4: the last 8 of 32 blocks at 60 % for 90 %, 12 at 46 %, 24 at 33 %.
    """
    total = sum(parameters.values())
    numbers = sorted(set(blocks.values()), reverse=True)
    if count is not None and count > len(numbers):
        raise LosparseError(f"last must be at most the model's {len(numbers)} blocks, got {count}")
    for taken in [count] if count is not None else range(1, len(numbers) + 1):
        chosen = set(numbers[:taken])
        held = sum(size for name, size in parameters.items() if blocks.get(name) in chosen)
        share = 1.0 - (1.0 - keep) * total / held if held else -1.0
        if share > 0.0 and (count is not None or share >= LAST_SHARE or taken == len(numbers)):
            return {name: share if blocks.get(name) in chosen else 1.0 for name in parameters}
    raise LosparseError(
        f"the last {count or len(numbers)} blocks hold {held / total:.0%} of the layers' parameters, too little to "
        f"leave {keep:.0%} of them all; raise keep, or compress more blocks"
    )


def parse_weights(text: str) -> tuple[tuple[str, float], ...]:
    """Read proportions: patterns of layers with numbers, as in "*.q_proj=1 *.k_proj=1 *.v_proj=3".

    Raises:
        LosparseError: an entry is not PATTERN=NUMBER, or a number is not above 0.
    """
    found = []
    for entry in text.replace(",", " ").split():
        pattern, _, number = entry.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not pattern or not 0.0 < weight < float("inf"):
            raise LosparseError(f"weights must be PATTERN=NUMBER with numbers above 0, got {entry!r}")
        found.append((pattern, weight))
    if not found:
        raise LosparseError("weights must name at least one PATTERN=NUMBER, got none")
    return tuple(found)


def proportional_shares(
    parameters: Mapping[str, int], weights: Sequence[tuple[str, float]], keep: float
) -> dict[str, float]:
    """Return shares in given proportions that keep `keep` of all parameters together; no layer keeps more than all.

    Args:
        parameters: of every layer, dense.
        weights: the first pattern that matches a layer gives its weight; others have 1.
        keep: share of all layers together.

    Raises:
        LosparseError: a pattern matches no layer.

    References:
        LoRAP, arXiv:2404.09695: ranks of value and output against query and key as 3 to 1.
    """
    for pattern, _ in weights:
        if not any(matches(name, pattern) for name in parameters):
            raise LosparseError(f"weights pattern {pattern!r} matches none of the {len(parameters)} layers")
    own = {name: next((w for pattern, w in weights if matches(name, pattern)), 1.0) for name in parameters}
    shares: dict[str, float] = {}
    left, open_layers = keep * sum(parameters.values()), dict(parameters)
    while open_layers:  # layers that would keep more than all are closed, and the rest shared out again
        unit = left / sum(own[name] * size for name, size in open_layers.items())
        full = [name for name in open_layers if unit * own[name] >= 1.0]
        if not full:
            shares |= {name: unit * own[name] for name in open_layers}
            break
        for name in full:
            shares[name] = 1.0
            left -= open_layers.pop(name)
    return {name: shares[name] for name in parameters}
