"""What `build.json` holds under "details": the pictures beside accuracy, size and speed. Values of JSON, typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict


class OperatorTime(TypedDict):
    """All nodes of one kind of operator in one run.

    `operator`: its name, as "Gemm". `ms`: their time, median over the runs, in milliseconds. `share`: of the
    sum over all kinds, 0 to 1. `calls`: how many nodes there are.
    """

    operator: str
    ms: float
    share: float
    calls: int


class RunTime(TypedDict):
    """What the profiler saw of a run, beside what a run takes; timed in turns, medians, in milliseconds.

    `operators_ms`: sum over all operators. `run_ms`: a run without the profiler. `profiled_ms`: a run with it.
    """

    operators_ms: float
    run_ms: float
    profiled_ms: float


class LayerDetail(TypedDict):
    """One compressed layer.

    `block`: its number, None outside blocks. `role`: what it is for, as "query". `shape`: [out, in] of the weight.
    `rank`, `kept`, `axis`: see `LayerSpec`. `parameters`, `dense_parameters`: what it stores, and would store dense.
    `lowering`: its form in the first variant's plan. `error`: Frobenius norm of u v + sparse less the dense weight it
    was made from, over that weight's norm; what training moved counts too; None where the dense model has no weight of
    that shape, as after neurons were dropped: which of them stayed is not known any more. `parity`: largest difference
    of the layer's output between PyTorch and the fp32 graph on random token ids; None where fusion or folding left no
    such place.
    """

    name: str
    block: int | None
    role: str
    shape: list[int]
    rank: int
    kept: int
    axis: str
    parameters: int
    dense_parameters: int
    lowering: str | None
    error: float | None
    parity: float | None


class TrainingLog(TypedDict):
    """One training.

    `log`: rows of "step", "loss" (mean since the row before), "learning_rate" and, where a method prunes by a schedule,
    "kept_share": which share of what is pruned it keeps at that step.
    """

    log: Sequence[Mapping[str, float]]


class KeepTime(TypedDict):
    """A model of random weights that keeps another share of its layers.

    `keep`: as asked for; 1 for the dense one. `ms`: median of a run. `speedup`: over dense fp32, in turns. `variant`:
    its precision. `how`: "timed".
    """

    keep: float
    variant: str
    ms: float
    speedup: float
    batch: int
    length: int
    how: str


class Details(TypedDict):
    """All of it; None where there is none.

    `parts`: bytes by part of the model (`losparse.saving.parts`), by model. `operators`, `runs`: by model. `training`:
    "dense" and "compressed", what was trained of them.
    """

    parts: Mapping[str, Mapping[str, int]]
    operators: Mapping[str, Sequence[OperatorTime]]
    runs: Mapping[str, RunTime]
    layers: Sequence[LayerDetail]
    training: Mapping[str, TrainingLog] | None
    keep: Sequence[KeepTime] | None
