"""Is one model slower than another by more than is allowed? Measured in turns, and again before that is said.

A verdict of "slower" must be no accident of the machine. So a measurement fails only where even the lower end of its
95 % interval is above what is allowed, and the verdict only where `TRIES` measurements, one after the other, each fail.
Were rounds independent, one measurement of equal models would fail 2.5 times in 100 at an allowed ratio of 1, and three
in a row 1.6 times in 100,000. Rounds are not: neighbours on the machine come and go, and a ratio above 1 leaves
room for that. tests/runtime/test_runtime_ratio.py counts false alarms and misses in simulated noise.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from .latency import Clock, Latency, Timed, measure

TRIES = 3
"""Measurements that must all fail."""
DEFAULT_RATIO = 1.1
"""Allowed where nothing else is said: equal models on busy machines were within 1.05 of each other."""


@dataclass(frozen=True)
class Ratio:
    """One measurement: the time of a model over that of another one.

    Attributes:
        ratio: median over the rounds, in each of which both ran side by side.
        low: lower end of the 95 % interval of that median.
        high: its upper end.
        median_ms: of the model, in milliseconds.
        against_ms: of the other one.
        runs: rounds.
    """

    ratio: float
    low: float
    high: float
    median_ms: float
    against_ms: float
    runs: int


@dataclass(frozen=True)
class RatioVerdict:
    """Whether a model is slower than another one by more than is allowed.

    Attributes:
        at_most: what is allowed.
        measurements: in order; the last one decides.
    """

    at_most: float
    measurements: tuple[Ratio, ...]

    @property
    def passed(self) -> bool:
        """Whether the last measurement does not show it to be slower."""
        return self.measurements[-1].low <= self.at_most

    @property
    def ratio(self) -> float:
        """That of the last measurement, and its interval in the next two."""
        return self.measurements[-1].ratio

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.measurements[-1].low

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.measurements[-1].high

    @property
    def words(self) -> str:
        """All of it in one line."""
        last = self.measurements[-1]
        times = f"{last.median_ms:.2f} ms against {last.against_ms:.2f} ms, {last.runs} runs each"
        tries = f", measured {len(self.measurements)} times" if len(self.measurements) > 1 else ""
        return (
            f"takes {last.ratio:.3f} times as long (95 % interval {last.low:.3f} to {last.high:.3f}; {times}{tries}), "
            f"at most {self.at_most:g} is allowed"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "at_most": self.at_most,
            "passed": self.passed,
            "measurements": [asdict(each) for each in self.measurements],
        }


def compare_latency(
    session: Timed,
    against: Timed,
    *,
    batch: int = 1,
    length: int = 128,
    at_most_ratio: float = DEFAULT_RATIO,
    min_seconds: float | None = None,
    runs: int | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> RatioVerdict:
    """Measure how long one model takes against another one, in turns; see the module.

    Args:
        session: the model.
        against: the other one, whose time counts as 1; of the same vocabulary, best on as many threads.
        batch: texts in a run.
        length: tokens in a text.
        at_most_ratio: largest ratio that is allowed, above 0: 1.1 for a tenth slower, 0.5 for twice as fast.
        min_seconds: timed seconds a model and measurement; see `measure`.
        runs: rounds of a measurement, in their place.
        seed: of the token ids.
        clock: tells the time.

    Raises:
        InputError: an argument is out of range.
        RunError: a model failed, or its outputs are not finite.
    """
    if not 0 < at_most_ratio < math.inf:
        raise InputError(f"at_most_ratio must be a finite number above 0, got {at_most_ratio!r}")
    found: list[Ratio] = []
    while len(found) < TRIES and (not found or found[-1].low > at_most_ratio):
        times = measure(
            {"against": against, "model": session},
            batch=batch,
            length=length,
            min_seconds=min_seconds,
            runs=runs,
            memory=False,
            seed=seed,
            clock=clock,
        )
        found.append(_ratio(times["model"], times["against"]))
    return RatioVerdict(at_most_ratio, tuple(found))


def _ratio(own: Latency, other: Latency) -> Ratio:
    return Ratio(
        ratio=1 / own.speedup,
        low=1 / own.speedup_high,
        high=1 / own.speedup_low,
        median_ms=own.median_ms,
        against_ms=other.median_ms,
        runs=own.runs,
    )
