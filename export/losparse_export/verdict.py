"""Variants of a model that were timed side by side, and in words whether compressing is worth it for speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from losparse.methods.losparse.shares import in_words as low_rank_words

from .costs import Call

LOSPARSE, ONNXRUNTIME, OPENVINO = "losparse", "onnxruntime", "OpenVINO"
"""Who makes and runs a model: we in onnxruntime, torch and onnxruntime by their defaults, or OpenVINO."""

# Below this gain over the best dense variant, compression is not worth a training for its speed.
_WORTH = 1.1


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        form: "dense" or "factored".
        precision: one that the target plans; of another runtime, one of its own.
        keep: kept share of the compressed layers' parameters, as it came out; 1 for dense.
        low_rank: share that was planned for the rank part, or shares by kind of layer and name pattern.
        layer_parameters: of those layers.
        model_parameters: of the whole model.
        file_bytes: size of the exported model; None where another runtime makes it in memory.
        median_ms: wall time of one run.
        min_ms: of the fastest run.
        speedup: over dense fp32 in runs side by side, median over the rounds.
        speedup_low: lower end of the 95 % interval of that median.
        speedup_high: its upper end.
        noisy: whether the machine was disturbed; see `losparse_runtime.Latency`.
        asked: whether it is the setting that was asked for.
        runtime: who makes and runs it: `LOSPARSE`, or `ONNXRUNTIME` or `OPENVINO` for what a user has for nothing.
    """

    form: str
    precision: str
    keep: float
    low_rank: float | Mapping[str, float]
    layer_parameters: int
    model_parameters: int
    file_bytes: int | None
    median_ms: float
    min_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    noisy: bool
    asked: bool
    runtime: str = LOSPARSE

    @property
    def name(self) -> str:
        """Form and precision, and where it runs if that is not with us."""
        where = {LOSPARSE: "", ONNXRUNTIME: " by onnxruntime's defaults", OPENVINO: " in OpenVINO"}
        return f"{self.form} {self.precision}{where[self.runtime]}"


def verdict(rows: Sequence[Row], call: Call) -> tuple[bool, str]:
    """Say in plain words whether compressing is worth it for speed.

    Compared are speed-ups over dense fp32, which are of runs side by side, with the fastest dense model: ours within
    the precisions that factored variants were measured in, and whatever other runtimes have. Medians are of runs apart,
    and say nothing here.

    Args:
        rows: dense ones in every precision, first the one that speed-ups are over; and factored ones, at least one of
            them asked for; dense ones of other runtimes where there are any.
        call: what was timed.

    Returns:
        Whether it is worth it, and the sentences.
    """
    factored = [row for row in rows if row.form == "factored"]
    dense = [row for row in rows if row.form == "dense"]
    measured = {row.precision for row in factored}
    best, asked = _fastest(factored), _fastest([row for row in rows if row.asked])
    opponent = _fastest([row for row in dense if row.precision in measured or row.runtime != LOSPARSE])
    where = f"at {call.batch} x {call.length} tokens and {call.threads} thread{'s' if call.threads > 1 else ''}"
    gain, low, high = _gain(best, opponent)
    worth = gain >= _WORTH and low > 1
    fastest = f"the fastest factored variant ({best.precision}) is {_times(best, opponent)}"
    if worth:
        found = f"Worth it {where}{_settings(best, asked, opponent)}"
    elif low <= 1 and high >= _WORTH:
        found = f"Too close to tell {where}: {fastest}; run it again on an idle machine."
    else:
        found = f"Not worth it for speed {where}: {fastest}; {_instead(opponent)}{_smaller(best, dense)}."
    unmeasured = [
        f"Factored {row.precision} was not measured, and dense {row.precision} is "
        f"{_times(row, dense[0])}; leave out --precision to compare it."
        for row in dense
        if row.runtime == LOSPARSE and row.precision not in measured and row is not dense[0]
    ]
    return worth, " ".join([found, *unmeasured])


def _instead(opponent: Row) -> str:
    """Say how to have the dense model that is faster."""
    if opponent.runtime == OPENVINO:
        return f"run the dense model in OpenVINO ({opponent.precision}) instead"
    if opponent.runtime == ONNXRUNTIME:
        return f"take {opponent.precision} of the dense model by onnxruntime's defaults instead"
    return f"export the dense model with --precision {opponent.precision} instead"


def _smaller(best: Row, dense: Sequence[Row]) -> str:
    """Say how much smaller the file becomes, where compression is not worth it for speed."""
    same = next((row for row in dense if row.runtime == LOSPARSE and row.precision == best.precision), None)
    if same is None or not same.file_bytes or not best.file_bytes or same.file_bytes < _WORTH * best.file_bytes:
        return ""
    return f". The compressed file is {same.file_bytes / best.file_bytes:.1f} times smaller"


def _settings(best: Row, asked: Row, opponent: Row) -> str:
    """Say what the setting that was asked for brings, and which other one is faster."""
    setting = f"--low-rank {low_rank_words(best.low_rank)}" if best.low_rank else "--method pruning"
    own, low, _ = _gain(asked, opponent)
    if own < _WORTH or low <= 1:
        return f" with {setting}: {_times(best, opponent)}; what was asked for: {_times(asked, opponent)}."
    said = f": what was asked for ({asked.precision}) is {_times(asked, opponent)}."
    if best.low_rank == asked.low_rank or best.speedup_low <= asked.speedup_high:
        return said
    return (
        f"{said} Faster at the same size: {setting} ({best.precision}), {_times(best, opponent)}; only training tells "
        "which is more accurate."
    )


def _fastest(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: row.speedup)


def _gain(one: Row, other: Row) -> tuple[float, float, float]:
    """Return how many times as fast one variant is as another, and the ends that both intervals allow."""
    return one.speedup / other.speedup, one.speedup_low / other.speedup_high, one.speedup_high / other.speedup_low


def _times(one: Row, other: Row) -> str:
    gain, low, high = _gain(one, other)
    return f"{gain:.2f} times ({low:.2f} to {high:.2f}) as fast as {other.name}"
