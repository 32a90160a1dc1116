"""What gates say of a variant: by how much it fails, and that it is not shipped."""

from __future__ import annotations

from typing import Any

import pytest

from losparse.building.gates import Measured, TooSlow, Verdict, judge
from losparse.building.recipe import Gates


def times(*speedups: float, ms: float = 6.0) -> tuple[dict[str, Any], ...]:
    shapes = [(1, 16), (1, 128)]
    return tuple(
        {"batch": batch, "length": length, "speedup": speedup, "median_ms": ms / speedup}
        for (batch, length), speedup in zip(shapes, speedups, strict=False)
    )


def models(**changes: Any) -> dict[str, Measured]:
    accuracy = {
        "value": 0.88,
        "error": 0.01,
        "deltas": {"dense": {"delta": -0.012, "error": 0.004}, "pytorch": {"delta": 0.001, "error": 0.002}},
    }
    variant: dict[str, Any] = {"bytes": 15_000_000, "accuracy": accuracy, "times": times(6.0, 5.0)} | changes
    return {
        "dense": Measured(False, 90_000_000, {"value": 0.892, "error": 0.01, "deltas": {}}, times(1.0, 1.0)),
        "dense-int8": Measured(False, 24_000_000, None, times(3.0, 2.0)),
        "int8": Measured(True, **variant),
    }


def slow_again(slow: TooSlow) -> float:
    return slow.found


def verdict_of(gates: Gates, again: Any = slow_again, **changes: Any) -> Verdict:
    (verdict,) = judge(gates, models(**changes), again)
    return verdict


def test_no_gate_says_nothing() -> None:
    assert judge(Gates(), models(), slow_again) == []


@pytest.mark.parametrize(
    ("gates", "passed", "value", "words"),
    [
        (
            Gates(max_accuracy_drop=1.2),
            True,
            1.2,
            "1.20 points below the dense model (standard error 0.40), at most 1.2",
        ),
        (Gates(max_accuracy_drop=1.0), False, 1.2, "int8: accuracy is 1.20 points below"),
        (Gates(max_precision_drop=0.0), True, -0.1, "0.10 points above the compressed model in PyTorch"),
        (Gates(min_accuracy=88.0), True, 88.0, "accuracy is 88.00 points"),
        (Gates(min_accuracy=88.5), False, 88.0, "88.5 are asked"),
        (Gates(min_speedup=5.0), True, 5.0, "at 1 x 128 it is 5.00x as fast as the dense model in fp32, 5x is asked"),
        (Gates(min_speedup=5.5), False, 5.0, "at 1 x 128 it is 5.00x"),
        (Gates(min_speedup_over_free=2.0), True, 2.0, "at 1 x 16 it is 2.00x as fast as the fastest dense model"),
        (Gates(min_speedup_over_free=2.1), False, 2.0, "2.1x is asked"),
        (Gates(max_latency_ms=1.0), True, 1.0, "at 1 x 16 a run takes 1.00 ms"),
        (Gates(max_latency_ms=0.9), False, 1.0, "at most 0.9 ms"),
        (Gates(max_bytes=15_000_000), True, 15e6, "its files have 15.00 MB, at most 15.00 MB"),
        (Gates(max_bytes=14_999_999), False, 15e6, "15.00 MB"),
    ],
)
def test_a_gate_says_by_how_much(gates: Gates, passed: bool, value: float, words: str) -> None:
    verdict = verdict_of(gates)
    assert verdict.passed is passed
    assert verdict.value == pytest.approx(value)
    assert words in verdict.words


@pytest.mark.parametrize(
    ("gates", "missing"),
    [
        (Gates(max_accuracy_drop=1.0), {"accuracy": None}),
        (Gates(min_accuracy=1.0), {"accuracy": None}),
        (Gates(min_speedup=1.0), {"times": ()}),
        (Gates(min_speedup_over_free=1.0), {"times": ()}),
        (Gates(max_latency_ms=1.0), {"times": ()}),
        (Gates(max_bytes=1), {"bytes": None}),
    ],
)
def test_what_was_not_measured_has_not_passed(gates: Gates, missing: dict[str, Any]) -> None:
    verdict = verdict_of(gates, **missing)
    assert not verdict.passed and verdict.value is None and "was not measured" in verdict.words


def test_a_variant_that_was_too_slow_is_timed_again() -> None:
    asked: list[TooSlow] = []

    def fast_now(slow: TooSlow) -> float:
        asked.append(slow)
        return 5.6

    assert verdict_of(Gates(min_speedup=5.5), fast_now).passed
    assert asked == [TooSlow("int8", "dense", 1, 128, 5.5, 5.0)]
    asked.clear()
    verdict_of(Gates(min_speedup_over_free=2.2), fast_now)
    assert [(each.against, each.length, each.found) for each in asked] == [("dense-int8", 16, 2.0)]


def test_a_single_text_has_no_standard_error() -> None:
    accuracy = {"value": 1.0, "error": None, "deltas": {"dense": {"delta": 0.0, "error": None}}}
    verdict = verdict_of(Gates(max_accuracy_drop=1.0), accuracy=accuracy)
    assert verdict.passed and "standard error" not in verdict.words
    assert "standard error" not in verdict_of(Gates(min_accuracy=50.0), accuracy=accuracy).words
