"""Measure what a machine takes for things, in under a minute, instead of believing what others of its kind took.

Probes (`probes`) are timed in turns in onnxruntime, and the constants of `Costs` are those by which their times are
explained best: a sum of what each takes, with no constant below 0, by relative errors, so that short calls count as
much as long ones. They are kept in a file, by processor, instructions, version and threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from losparse.environment import cache_folder, machine
from losparse.errors import LosparseError
from losparse_runtime.contract.progress import SILENT, Phases, Progress
from losparse_runtime.dependencies import import_onnxruntime

from ..costs import Costs
from ..target import CPU, MEASURED, Target, target_by_name
from .cached import read_cached, write_cached
from .probes import MULTIPLY_ADD, Probe, probes

_LEAST_ROUNDS, _SECONDS = 30, 8.0
_FORMAT = 1  # of the probes and the fit: other ones give other constants
# Kernels compute 16 outputs together on every x86-64 that onnxruntime has one for; how many are as good as one is
# found by trying.
_STEP = 16
_PANELS = (16, 32, 48, 64)

Measure = Callable[[int, Phases], Costs]
"""What measures a machine on so many threads, as `measure_costs` does."""


def measured_target(
    threads: int = 1,
    *,
    cache: Path | None = None,
    progress: Progress = SILENT,
    measure: Measure | None = None,
) -> Target:
    """Return the CPU of this machine with costs that were measured on it, now or earlier.

    Args:
        threads: of onnxruntime, inside one operator.
        cache: file of costs that are known; None for costs.json in the folder that `environment.cache_folder` says.
        progress: shows a stage where something is measured.
        measure: what measures; `measure_costs` by default.
    """
    file = cache_folder() / "costs.json" if cache is None else cache
    known, key = read_cached(file), _key(threads)
    found = _read_costs(known.get(key))
    if found is None:
        with progress.stage("measuring this machine") as advance:
            found = (measure or measure_costs)(threads, Phases(advance, "measuring this machine"))
        write_cached(file, {**known, key: asdict(found)})
    return replace(CPU, costs=found)


def named_target(name: str, threads: int = 1, *, progress: Progress = SILENT) -> Target:
    """Return the kind of machine of a name; "measured" is measured on some threads, unless that was done.

    Args:
        name: of `TARGETS`, or `MEASURED`.
        threads: that "measured" is measured on.
        progress: shows a stage while it is.

    Raises:
        LosparseError: there is none of that name.
    """
    return measured_target(threads, progress=progress) if name == MEASURED else target_by_name(name)


def measure_costs(threads: int, phases: Phases) -> Costs:
    """Time all probes here, and return the constants that explain their times.

    Raises:
        LosparseError: the times are not those of a machine that multiplies: it was disturbed throughout.
    """
    built = probes()
    return fit(built, time_probes(built, threads, phases))


def fit(built: Sequence[Probe], seconds: Sequence[float]) -> Costs:
    """Return the constants by which times are explained best, in multiply-adds of fp32.

    Args:
        built: what was timed.
        seconds: of a call of each; > 0.

    Raises:
        LosparseError: see `measure_costs`.
    """
    found = {panel: _solve(built, seconds, panel) for panel in _PANELS}
    panel = min(found, key=lambda panel: found[panel][0])
    _, constants = found[panel]
    unit = constants[MULTIPLY_ADD]
    if unit <= 0:
        raise LosparseError("this machine could not be measured, it does too much else; try again, or name a target")
    names = {field.name for field in fields(Costs)} & set(constants)
    own = {name: float(constants[name] / unit) for name in names}
    return replace(CPU.costs, panel=panel, step=_STEP, **own)


def _solve(built: Sequence[Probe], seconds: Sequence[float], panel: int) -> tuple[float, dict[str, float]]:
    """Return the error left, and seconds for one of every constant."""
    from scipy.optimize import nnls

    rows = [probe.row(panel, _STEP) for probe in built]
    names = sorted({name for row in rows for name in row})
    counts = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    relative = counts / np.array(seconds)[:, None]
    scale = relative.max(axis=0)  # columns are many orders of magnitude apart
    solution, error = nnls(relative / scale, np.ones(len(rows)))
    return float(error), dict(zip(names, solution / scale, strict=True))


def time_probes(built: Sequence[Probe], threads: int, phases: Phases, seconds: float = _SECONDS) -> list[float]:
    """Time probes in turns for so long; the fastest call of each is the one that was least disturbed."""
    sessions = []
    for done, probe in enumerate(built):
        phases.at("opening graphs", done, len(built))
        sessions.append(_open(probe.graph, threads))
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(probe.tokens, probe.width)).astype(np.float32)} for probe in built]
    best = [float("inf")] * len(built)
    begin, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - begin < seconds:
        phases.at("timing", rounds, max(rounds + 1, _LEAST_ROUNDS))
        for place, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, feeds[place])
            best[place] = min(best[place], time.perf_counter() - start)
        rounds += 1
    return best


def _open(model: ir.Model, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=[CPU.provider])


def _key(threads: int) -> str:
    runtime = import_onnxruntime().__version__
    return f"{machine()['cpu']}, onnxruntime {runtime}, threads {threads}, probes {_FORMAT}"


def _read_costs(entry: object) -> Costs | None:
    """Read constants that were kept; None where they are not all there and numbers that costs can be."""
    names = [field.name for field in fields(Costs)]
    if not isinstance(entry, dict) or sorted(entry) != sorted(names):
        return None
    if not all(isinstance(number, int | float) and 0 <= number < float("inf") for number in entry.values()):
        return None
    panel, step = int(entry["panel"]), int(entry["step"])
    own = {name: float(number) for name, number in entry.items() if name not in ("panel", "step")}
    return Costs(panel=panel, step=step, **own) if panel and step else None
