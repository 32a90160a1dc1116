"""Time sessions against each other, and the memory each one needs.

Sessions take turns (A B, B A, A B ...): a machine that slows down or speeds up while measuring does so for all of
them. Times are wall times of `Session.run`, its input checks included, on one fixed batch of seeded random token ids
without padding; a model of another runtime, as `OpenVino` is, tells the time of its own run. Percentiles interpolate
linearly between the two nearest runs (numpy's default), so a p99 of fewer than 100 runs lies between the two slowest.

Times and speedups are taken differently, so on a disturbed machine they disagree: a time is a median over all rounds, a
speedup the median of what the rounds say one by one, in each of which both sessions met the same machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.feeds import Draw
from ..contract.tensors import Arrays
from ..engine.options import Options
from ..errors import InputError, RunError, one_line
from ..session import Session
from .openvino import OpenVino

Clock = Callable[[], float]
"""Seconds since any moment."""

Timed = Session | OpenVino
"""What can be timed."""

_LEAST_ROUNDS = 10
_MIN_SECONDS = 1.0
# A quiet machine runs a model in much the same time again and again; above these it is called noisy.
_NOISY_MEDIAN, _NOISY_INTERVAL = 1.25, 1.2
_MEMORY_RUNS = 3
_MEMORY_TIMEOUT_S = 600


@dataclass(frozen=True)
class Latency:
    """Wall time of one run of one session; the module says how it is taken.

    Attributes:
        median_ms: median, in milliseconds.
        min_ms: fastest run.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        tokens_per_s: batch x length tokens over the median.
        runs: timed runs.
        speedup: how many times faster than the first session: median over the rounds of its time over this one's.
        speedup_low: lower end of the 95 % interval of that median; of fewer than six rounds, the smallest.
        speedup_high: its upper end.
        noisy: whether the machine was disturbed: the median run took more than 1.25 times the fastest one, or the
            interval is wider than 1.2 times; a time is then not to be quoted, a speedup holds within its interval.
        peak_memory_bytes: see `peak_memory`; None where it was not asked for.
    """

    median_ms: float
    min_ms: float
    p90_ms: float
    p99_ms: float
    tokens_per_s: float
    runs: int
    speedup: float
    speedup_low: float
    speedup_high: float
    noisy: bool
    peak_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def measure(
    sessions: Mapping[str, Timed],
    *,
    batch: int = 1,
    length: int = 128,
    warmup: int = 3,
    runs: int | None = None,
    min_seconds: float | None = None,
    memory: bool = True,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Time sessions in turns on the same input.

    Args:
        sessions: by name; the first is the one the others are compared with.
        batch: texts in a run, >= 1.
        length: tokens in a text, in 1..the smallest `max_length`.
        warmup: untimed rounds first, >= 0, after one run of each that checks its outputs.
        runs: timed rounds, >= 1; by default at least 10, until `min_seconds` a session have passed.
        min_seconds: see `runs`, beside which it is not; > 0, in seconds; 1 by default.
        memory: measure peak memory of sessions too: opens each folder once more in a process of its own.
        seed: of the token ids.
        clock: tells the time.

    Returns:
        A latency by session name, in order.

    Raises:
        InputError: an argument is out of range, or a folder does not say its vocabulary size.
        RunError: a model failed, or its outputs are not finite.
    """
    _check_arguments(sessions, batch, length, warmup, runs, min_seconds)
    feeds = _feeds(sessions, batch, length, seed)
    for name, session in sessions.items():
        _check_run(name, session, feeds[name])
    peaks = {
        name: peak_memory(session.folder, session.options, batch=batch, length=length, seed=seed)
        if memory and isinstance(session, Session)
        else None
        for name, session in sessions.items()
    }
    _rounds(sessions, feeds, warmup, clock)
    seconds = _rounds(sessions, feeds, runs, clock, (min_seconds or _MIN_SECONDS) * len(sessions))
    first = seconds[next(iter(sessions))]
    return {name: _latency(seconds[name], first, batch * length, peaks[name]) for name in sessions}


def peak_memory(
    folder: Path | str,
    options: Options,
    *,
    batch: int = 1,
    length: int = 128,
    seed: int = 0,
    python: str = sys.executable,
) -> int:
    """Memory a process needs that does nothing but open one folder and run it.

    Measured in a process of its own: the peak of a shared one belongs to everything that ever ran in it.

    Args:
        folder: an exported ONNX folder.
        options: how to open it.
        batch: texts in a run.
        length: tokens in a text.
        seed: of the token ids.
        python: the interpreter of that process.

    Returns:
        Largest resident set of the whole process, in bytes: Python, numpy and onnxruntime with their code, the weights
        (also those mapped from a file, as far as they were read), and everything onnxruntime holds.

    Raises:
        RunError: the process failed; the message is its own.
    """
    job = {"folder": str(folder), "options": options.arguments(), "batch": batch, "length": length, "seed": seed}
    # The child must find this very package, also where the parent has it from a path that only it knows.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [python, "-P", "-m", "losparse_runtime.timing._memory", json.dumps(job | {"runs": _MEMORY_RUNS})]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_MEMORY_TIMEOUT_S, check=False
        )
        answer = (
            json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"error": one_line(ValueError(done.stderr))}
        )
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise RunError(f"{folder}: measuring memory in a process of its own failed: {one_line(error)}") from error
    if "error" in answer:
        raise RunError(f"{folder}: measuring memory in a process of its own failed: {answer['error']}")
    return int(answer["peak_memory_bytes"])


def check_named(sessions: object) -> None:
    """Refuse what is not a dict of at least one session.

    Raises:
        InputError: it is not.
    """
    if not isinstance(sessions, Mapping) or not sessions:
        raise InputError('sessions must be a dict of at least one session by name, as in {"dense": Session(folder)}')


def _check_arguments(
    sessions: Mapping[str, Timed], batch: int, length: int, warmup: int, runs: int | None, min_seconds: float | None
) -> None:
    check_named(sessions)
    counts = {
        "batch": (batch, 1),
        "length": (length, 1),
        "warmup": (warmup, 0),
        "runs": (1 if runs is None else runs, 1),
    }
    for name, (value, least) in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    if runs is not None and min_seconds is not None:
        raise InputError(f"runs={runs} says how often, so min_seconds={min_seconds:g} would change nothing; give one")
    if min_seconds is not None and not 0 < min_seconds < float("inf"):
        raise InputError(f"min_seconds must be a finite number > 0, got {min_seconds!r}")
    name, shortest = min(((name, session.max_length) for name, session in sessions.items()), key=lambda item: item[1])
    if length > shortest:
        raise InputError(f"length must be in 1..{shortest}, the positions of {name!r}, got {length}")


def _feeds(sessions: Mapping[str, Timed], batch: int, length: int, seed: int) -> dict[str, Arrays]:
    """The same seed for every session: models of one vocabulary get the same ids."""
    return {name: session.signature.random_feeds(Draw(batch, length, seed=seed)) for name, session in sessions.items()}


def _check_run(name: str, session: Timed, feed: Arrays) -> None:
    for output, array in session.run(feed).items():
        if not np.isfinite(array).all():
            raise RunError(f"output {output!r} of {name!r} is not finite (NaN or Inf): its time would mean nothing")


def _rounds(
    sessions: Mapping[str, Timed], feeds: Mapping[str, Arrays], runs: int | None, clock: Clock, seconds: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of every run by session; a round runs each session once, and each round starts with another one."""
    names = list(sessions)
    times: dict[str, list[float]] = {name: [] for name in names}
    begin, done = clock(), 0
    while done < runs if runs is not None else done < _LEAST_ROUNDS or clock() - begin < seconds:
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_seconds(sessions[name], feeds[name], clock))
        done += 1
    return times


def _seconds(session: Timed, feed: Arrays, clock: Clock) -> float:
    if isinstance(session, OpenVino):
        return session.seconds(feed)
    start = clock()
    session.run(feed)
    return clock() - start


def _latency(seconds: list[float], first: list[float], tokens: int, peak: int | None) -> Latency:
    own, reference = np.array(seconds), np.array(first)
    median, p90, p99 = (float(np.percentile(own, percent)) for percent in (50, 90, 99))
    ratios = np.sort(reference / own)
    # Ranks that hold the median in 95 of 100 samples, by the binomial distribution: nothing is assumed of the times.
    rank = max(0, int((len(ratios) - 1.96 * len(ratios) ** 0.5) / 2))
    low, high = float(ratios[rank]), float(ratios[-1 - rank])
    return Latency(
        median_ms=1e3 * median,
        min_ms=1e3 * float(own.min()),
        p90_ms=1e3 * p90,
        p99_ms=1e3 * p99,
        tokens_per_s=tokens / median,
        runs=len(seconds),
        speedup=float(np.median(ratios)),
        speedup_low=low,
        speedup_high=high,
        noisy=median > _NOISY_MEDIAN * float(own.min()) or high > _NOISY_INTERVAL * low,
        peak_memory_bytes=peak,
    )
