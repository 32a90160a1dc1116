"""What a variant must reach to be shipped: judged on what was measured, and said with by how much.

A gate that cannot be judged fails: a variant whose accuracy nobody measured has not passed a gate of accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .recipe import Gates
from .variants import DENSE


@dataclass(frozen=True)
class TooSlow:
    """A variant that was too slow once.

    Attributes:
        variant: its name.
        against: name of the model that it is to be faster than.
        batch: texts in a run.
        length: tokens in a text.
        limit: how many times faster it must be.
        found: how many times faster it was.
    """

    variant: str
    against: str
    batch: int
    length: int
    limit: float
    found: float


Again = Callable[[TooSlow], float]
"""Times a variant anew that was too slow; returns how many times faster it is, at least the limit where that is so."""

_POINTS = 100.0
"""Points in 1 of a metric."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    Attributes:
        is_variant: whether it is judged; the others are what it is compared with.
        bytes: of its files; None where it has none.
        accuracy: "value", "error" and "deltas" against others; None where it was not measured.
        times: results of the bench, a shape each.
    """

    is_variant: bool
    bytes: int | None
    accuracy: Mapping[str, Any] | None
    times: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Verdict:
    """One gate on one variant.

    Attributes:
        gate: its name in the recipe.
        variant: that was judged.
        limit: of the recipe.
        value: that was measured, in the units of the limit; None where it was not.
        passed: whether the variant may be shipped as far as this gate goes.
        words: all of it in one line.
    """

    gate: str
    variant: str
    limit: float
    value: float | None
    passed: bool
    words: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def judge(gates: Gates, models: Mapping[str, Measured], again: Again) -> list[Verdict]:
    """Judge every variant by every gate that is set.

    Args:
        gates: of the recipe.
        models: what was measured, by name; the baseline's are among them.
        again: times a variant that is too slow once more, before it is refused.
    """
    verdicts: list[Verdict] = []
    for name, model in models.items():
        if model.is_variant:
            verdicts += _of_accuracy(gates, name, model)
            verdicts += _of_speed(gates, name, models, again)
            verdicts += _of_latency(gates, name, model)
            verdicts += _of_size(gates, name, model)
    return verdicts


def _of_accuracy(gates: Gates, name: str, model: Measured) -> Iterator[Verdict]:
    accuracy = model.accuracy or {}
    for gate, other, called in (
        ("max_accuracy_drop", DENSE, "the dense model"),
        ("max_precision_drop", "pytorch", "the compressed model in PyTorch"),
    ):
        limit = getattr(gates, gate)
        if limit is None:
            continue
        found = accuracy.get("deltas", {}).get(other)
        if found is None:
            yield _unknown(gate, name, limit, "accuracy")
            continue
        drop = -_POINTS * found["delta"]
        way = f"{drop:.2f} points below" if drop > 0 else f"{-drop:.2f} points above"
        words = f"{name}: accuracy is {way} {called}{_error(found)}, at most {limit:g} below are allowed"
        yield Verdict(gate, name, limit, drop, _at_most(drop, limit), words)
    if gates.min_accuracy is not None:
        if "value" not in accuracy:
            yield _unknown("min_accuracy", name, gates.min_accuracy, "accuracy")
            return
        value = _POINTS * accuracy["value"]
        words = f"{name}: accuracy is {value:.2f} points{_error(accuracy)}, {gates.min_accuracy:g} are asked"
        yield Verdict("min_accuracy", name, gates.min_accuracy, value, _at_most(gates.min_accuracy, value), words)


def _error(found: Mapping[str, Any]) -> str:
    """Say the standard error of a metric; of a single text there is none."""
    return "" if found.get("error") is None else f" (standard error {_POINTS * found['error']:.2f})"


def _of_speed(gates: Gates, name: str, models: Mapping[str, Measured], again: Again) -> Iterator[Verdict]:
    for gate, called in (
        ("min_speedup", "the dense model in fp32"),
        ("min_speedup_over_free", "the fastest dense model"),
    ):
        limit = getattr(gates, gate)
        if limit is None:
            continue
        if not models[name].times:
            yield _unknown(gate, name, limit, "speed")
            continue
        worst, where = min(
            (_speedup(gate, limit, name, row, models, again), f"{row['batch']} x {row['length']}")
            for row in models[name].times
        )
        words = f"{name}: at {where} it is {worst:.2f}x as fast as {called}, {limit:g}x is asked"
        yield Verdict(gate, name, limit, worst, worst >= limit, words)


def _speedup(
    gate: str, limit: float, name: str, row: Mapping[str, Any], models: Mapping[str, Measured], again: Again
) -> float:
    """Return how many times faster a variant is at one shape; measured anew where that is too little."""
    against, best = DENSE, 1.0
    if gate == "min_speedup_over_free":
        free = {
            other: each["speedup"]
            for other, model in models.items()
            if not model.is_variant
            for each in model.times
            if (each["batch"], each["length"]) == (row["batch"], row["length"])
        }
        against, best = max(free.items(), key=lambda item: item[1])
    found = float(row["speedup"] / best)
    if found >= limit:
        return found
    return again(TooSlow(name, against, row["batch"], row["length"], limit, found))


def _of_latency(gates: Gates, name: str, model: Measured) -> Iterator[Verdict]:
    limit = gates.max_latency_ms
    if limit is None:
        return
    if not model.times:
        yield _unknown("max_latency_ms", name, limit, "speed")
        return
    row = model.times[0]
    value = float(row["median_ms"])
    where = f"{row['batch']} x {row['length']}"
    words = f"{name}: at {where} a run takes {value:.2f} ms, at most {limit:g} ms are allowed"
    yield Verdict("max_latency_ms", name, limit, value, value <= limit, words)


def _of_size(gates: Gates, name: str, model: Measured) -> Iterator[Verdict]:
    limit = gates.max_bytes
    if limit is None:
        return
    if model.bytes is None:
        yield _unknown("max_bytes", name, limit, "size")
        return
    words = f"{name}: its files have {model.bytes / 1e6:.2f} MB, at most {limit / 1e6:.2f} MB are allowed"
    yield Verdict("max_bytes", name, limit, float(model.bytes), model.bytes <= limit, words)


def _unknown(gate: str, name: str, limit: float, what: str) -> Verdict:
    return Verdict(gate, name, limit, None, False, f"{name}: its {what} was not measured, so {gate} cannot be judged")


def _at_most(value: float, limit: float) -> bool:
    # A drop of just the limit passes: differences of shares of texts are not exact in binary.
    return value <= limit + 1e-9
