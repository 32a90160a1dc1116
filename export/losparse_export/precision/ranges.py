"""The range of an activation whose scale is fixed: measured in runs of the fp32 graph, the least error chosen.

A number x is stored as one of 256 steps between `low` and `high`, and what is outside is cut. A narrow range rounds
finely and cuts much, a wide one neither. Of all candidates between nothing and everything that was seen, the range is
taken whose error is least in the mean square, each feature counted by how much the products that read it make of it:

    error(low, high) = sum over values of weight(feature) * (x - stored x)^2 ,  weight(k) = sum over columns of W[k]^2

It takes two passes over the runs: one for the ends, one for how often values fall between them. Memory is that of one
run's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Values fall into so many bins of equal width, and so many shares of either end are tried.
_BINS, _TRIED = 4096, 64

STEPS = 255
"""Steps of an unsigned byte between the ends of a range."""


@dataclass(frozen=True)
class Range:
    """The ends of what an activation is stored within; `low` <= 0 <= `high`, for padding is zero and must stay so.

    Attributes:
        low: no unit.
        high: no unit.
    """

    low: float
    high: float

    @property
    def scale(self) -> float:
        """The width of a step."""
        return (self.high - self.low) / STEPS or 1.0  # 1 where nothing but zero was seen

    @property
    def zero_point(self) -> int:
        """The step that stands for zero."""
        return int(np.clip(np.rint(-self.low / self.scale), 0, STEPS))


@dataclass
class Observed:
    """What is known of one activation.

    Attributes:
        weights: of its features in the error, >= 0; (features,).
        low: smallest value seen, or 0.
        high: largest value seen, or 0.
        counts: weighted number of values by bin, of equal width from `low` to `high`; (bins,).
    """

    weights: Array
    low: float = 0.0
    high: float = 0.0
    counts: Array = field(default_factory=lambda: np.zeros(_BINS))

    def widen(self, values: Array) -> None:
        """Take the ends of some values; float32 (..., features)."""
        self.low = min(self.low, float(values.min(initial=0.0)))
        self.high = max(self.high, float(values.max(initial=0.0)))

    def count(self, values: Array) -> None:
        """Count some values, all of which `widen` has seen; float32 (..., features)."""
        width = self.high - self.low
        if width > 0:
            bins = ((values - np.float32(self.low)) * np.float32(_BINS / width)).astype(np.int32)
            weights = np.broadcast_to(self.weights, values.shape).ravel()
            self.counts += np.bincount(np.clip(bins, 0, _BINS - 1).ravel(), weights, _BINS)

    def best(self) -> Range:
        """Return the range of least error."""
        if not self.counts.any():
            return Range(self.low, self.high)
        centres = self.low + (np.arange(_BINS) + 0.5) * (self.high - self.low) / _BINS
        lows, highs = _candidates(self.low), _candidates(self.high)
        # An end costs what it cuts; both together cost the rounding of everything between them.
        below = np.array([_cut(self.counts, centres, centres < low, low) for low in lows])
        above = np.array([_cut(self.counts, centres, centres > high, high) for high in highs])
        inside = self.counts.sum() * ((highs[None, :] - lows[:, None]) / STEPS) ** 2 / 12
        at, to = np.unravel_index(np.argmin(below[:, None] + above[None, :] + inside), inside.shape)
        return Range(float(lows[at]), float(highs[to]))


def _candidates(end: float) -> Array:
    """Return the shares of one end that are tried, from all of it downwards; zero alone where nothing is beyond it."""
    return end * (np.arange(_TRIED, 0, -1) / _TRIED) if end else np.zeros(1)


def _cut(counts: Array, centres: Array, cut: Array, end: float) -> float:
    return float((counts[cut] * (centres[cut] - end) ** 2).sum())


def measure_ranges(
    runs: Sequence[Mapping[str, Array]],
    observe: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    weights: Mapping[str, Array],
) -> dict[str, Range]:
    """Measure the ranges of activations.

    Args:
        runs: inputs of runs.
        observe: runs the graph once: takes inputs, returns the activations by name.
        weights: of the features of each activation, by its name; (features,).

    Returns:
        A range by name.
    """
    observed = {name: Observed(each) for name, each in weights.items()}
    for look in (Observed.widen, Observed.count):
        for run in runs:
            for name, values in observe(run).items():
                look(observed[name], values)
    return {name: each.best() for name, each in observed.items()}
