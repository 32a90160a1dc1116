"""Medians with their intervals, and tables of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb
from urllib.request import urlopen

import numpy as np


@dataclass(frozen=True)
class Median:
    """A median, and an interval that holds the true one in 95 of 100 cases; of fewer than six values, all of them."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Median:
        """Return the median of values, at least one."""
        ordered = sorted(values)
        out = _outside(len(ordered))
        return cls(float(np.median(ordered)), ordered[out], ordered[-1 - out])

    def __str__(self) -> str:
        """The median and its interval."""
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def _outside(count: int) -> int:
    """Return how many values may be left out at each end: the chance that the median lies there is below 2.5 %."""
    left, chance = 0, 0.0
    while True:
        chance += comb(count, left) / 2**count
        if chance >= 0.025:
            return left
        left += 1


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """Return a percentile in milliseconds."""
    return 1000 * float(np.percentile(seconds, percent))


def counters(port: int) -> dict[str, float]:
    """Return the numbers of a server's page of metrics that have no labels but the model's, and their buckets."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        match = re.fullmatch(r'(\w+)\{(?:le="([^"]+)",)?model="[^"]*"\} (\S+)', line)
        if match:
            name = match[1] if match[2] is None else f"{match[1]} {match[2]}"
            found[name] = float(match[3])
    return found


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; the first column to the left."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
