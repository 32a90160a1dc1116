"""`compare_latency`: how often it calls equal models different, and misses a slower one, in noise like a machine's."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from losparse_runtime import InputError, compare_latency
from losparse_runtime.timing.ratio import DEFAULT_RATIO, TRIES, RatioVerdict

from .conftest import MakeFolder


class Machine:
    """A clock that models advance: each run takes its time, times the noise of that moment.

    Noise is what shared machines were seen to have: every run is off by some per cent, a few by a multiple; load comes
    and goes slowly, for both models alike; and now and then a neighbour takes turns for a while.
    """

    def __init__(self, seed: int) -> None:
        self.now, self.load, self.busy = 0.0, 0.0, 0
        self.random = np.random.default_rng(seed)

    def clock(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        draw = self.random
        self.load = 0.98 * self.load + 0.02 * draw.standard_normal()
        if self.busy == 0 and draw.random() < 0.01:
            self.busy = int(draw.integers(5, 40))
        self.busy = max(0, self.busy - 1)
        own = draw.lognormal(0, 0.06) * (draw.uniform(1.5, 4) if draw.random() < 0.03 else 1)
        taken = draw.uniform(1, 1.8) if self.busy else 1.0
        self.now += seconds * own * taken * np.exp(self.load)

    def model(self, seconds: float) -> Any:
        def run(feed: object) -> dict[str, Any]:
            self.spend(seconds)
            return {"logits": np.zeros(1)}

        signature = SimpleNamespace(random_feeds=lambda draw: {})
        return SimpleNamespace(run=run, signature=signature, max_length=128)


def verdict(seed: int, slower: float, at_most: float, seconds: float = 0.12) -> RatioVerdict:
    machine = Machine(seed)
    return compare_latency(
        machine.model(1e-3 * slower),
        machine.model(1e-3),
        at_most_ratio=at_most,
        min_seconds=seconds,
        clock=machine.clock,
    )


def share(count: int, holds: Callable[[int], bool]) -> float:
    return sum(map(holds, range(count))) / count


def test_equal_models_pass() -> None:
    # None of 1,000 failed when this was written; of 1,000 runs at a rate of 0.005, none does in 1 of 150 cases.
    assert share(1000, lambda seed: not verdict(seed, 1.0, DEFAULT_RATIO).passed) == 0


def test_equal_models_pass_within_a_twentieth() -> None:
    assert share(500, lambda seed: not verdict(seed, 1.0, 1.05).passed) < 0.01


def test_even_where_nothing_is_allowed_few_equal_models_fail() -> None:
    # Independent rounds would give 1.6 in 100,000; noise that lasts gives more.
    assert share(500, lambda seed: not verdict(seed, 1.0, 1.0).passed) < 0.01


def test_a_model_that_is_slower_by_three_tenths_is_caught() -> None:
    assert share(300, lambda seed: not verdict(seed, 1.3, DEFAULT_RATIO).passed) == 1


def test_a_failure_is_measured_three_times_and_a_pass_once() -> None:
    assert len(verdict(0, 1.3, DEFAULT_RATIO).measurements) == TRIES
    assert len(verdict(0, 1.0, DEFAULT_RATIO).measurements) == 1


def test_a_disturbance_that_ends_fails_nothing() -> None:
    """The first measurement meets a neighbour that slows one model alone; the next ones do not."""
    machine = Machine(0)
    slow, fast = machine.model(1e-3), machine.model(1e-3)
    undisturbed, ended = slow.run, 0.6

    def run(feed: object) -> dict[str, Any]:
        if machine.now < ended:
            machine.now += 1e-3
        found: dict[str, Any] = undisturbed(feed)
        return found

    slow.run = run
    found = compare_latency(slow, fast, min_seconds=0.12, clock=machine.clock)
    assert found.passed and len(found.measurements) > 1
    assert found.measurements[0].low > DEFAULT_RATIO


def test_it_says_by_how_much() -> None:
    found = verdict(1, 1.3, 1.1)
    assert found.ratio == pytest.approx(1.3, rel=0.05) and found.low < found.ratio < found.high
    assert found.words.startswith("takes 1.") and "measured 3 times" in found.words
    assert found.words.endswith("at most 1.1 is allowed")
    assert found.to_dict()["passed"] is False


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="at_most_ratio must be a finite number above 0"):
        verdict(0, 1.0, ratio)


def test_pairs_of_real_sessions(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark that counts false alarms and misses; bounds are wide since a tiny model is mostly overhead."""
    folder = str(make_folder().path)
    script = Path(__file__).parents[2] / "benchmarks" / "equal_pairs.py"
    main = runpy.run_path(str(script))["main"]
    shape = ["--pairs", "3", "--length", "8", "--min-seconds", "0.05"]
    assert main([folder, *shape, "--at-most", "1.5", "--slower", "3"]) == 0
    said = capsys.readouterr().out
    assert "equal models: 3 of 3 passed at 1.5" in said and "3 times slower: 3 of 3 caught" in said
    # Where nothing is slower, nothing can be caught, and the script must say so.
    assert main([folder, *shape, "--at-most", "9", "--slower", "3"]) == 1
    assert "3 times slower: 0 of 3 caught" in capsys.readouterr().out
