"""Where the time of a run goes: onnxruntime's own profile, node by node.

Profiling itself takes time, a microsecond or two a node, and what onnxruntime does between nodes is in none of them: so
the sum over the nodes may be above or below what `measure` says. `profile_sessions` times runs without the profiler in
the same turns, to tell by how much.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ..contract.config import read_model_config
from ..contract.feeds import Draw
from ..engine.chosen import select_here
from ..engine.opening import open_model
from ..engine.options import Options
from ..errors import InputError
from ..session import Session
from .latency import Clock, check_named

_WARMUP = 2


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph as onnxruntime runs it, after its own fusions.

    Attributes:
        name: of the node; ours are paths of modules, as in "/encoder/layer.0/attention/self/query/Gemm".
        operator: as in "Gemm".
        ms: time of one run, the median over the runs, in milliseconds.
    """

    name: str
    operator: str
    ms: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a model goes, beside what a run takes.

    Attributes:
        nodes: in the order in which they run.
        run_ms: median time of a run without the profiler, in milliseconds.
        profiled_ms: the same with it.
    """

    nodes: tuple[NodeTime, ...]
    run_ms: float
    profiled_ms: float

    @property
    def nodes_ms(self) -> float:
        """Sum over the nodes, in milliseconds."""
        return sum(node.ms for node in self.nodes)


def profile_sessions(
    sessions: Mapping[str, Session],
    *,
    batch: int = 1,
    length: int = 128,
    runs: int = 20,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Profile]:
    """Run models in turns, each with onnxruntime's profiler and without.

    Args:
        sessions: by name; each model is opened once more, with the profiler.
        batch: see `profile_nodes`, as for the others.
        length: see there.
        runs: see there.
        seed: see there.
        clock: tells the time.

    Returns:
        A profile by name, in order.

    Raises:
        InputError: an argument is out of range, or a folder does not say its vocabulary size.
    """
    check_named(sessions)
    _check_counts(batch, length, runs)
    plain: dict[str, list[float]] = {name: [] for name in sessions}
    profiled: dict[str, list[float]] = {name: [] for name in sessions}
    with tempfile.TemporaryDirectory() as place:
        feeds = {name: each.signature.random_feeds(Draw(batch, length, seed=seed)) for name, each in sessions.items()}
        watched = {
            name: open_model(each.folder, each.metadata, each.options, profile=Path(place) / str(number))
            for number, (name, each) in enumerate(sessions.items())
        }
        for _ in range(_WARMUP + runs):
            for name, session in sessions.items():
                plain[name].append(_ms(partial(session.run, feeds[name]), clock))
                profiled[name].append(_ms(partial(watched[name].run, None, feeds[name]), clock))
        nodes = {name: _read(each, runs) for name, each in watched.items()}
    return {
        name: Profile(nodes[name], median(plain[name][_WARMUP:]), median(profiled[name][_WARMUP:])) for name in sessions
    }


def profile_nodes(
    folder: Path | str, options: Options, *, batch: int = 1, length: int = 128, runs: int = 10, seed: int = 0
) -> tuple[NodeTime, ...]:
    """Run a folder with onnxruntime's profiler on.

    Args:
        folder: an exported ONNX folder.
        options: how to open it.
        batch: texts in a run.
        length: tokens in a text.
        runs: profiled runs, >= 1, after two that are not counted.
        seed: of the token ids.

    Returns:
        The nodes in the order in which they run.

    Raises:
        InputError: an argument is out of range, or the folder does not say its vocabulary size.
        FolderError: the folder is missing or damaged.
    """
    _check_counts(batch, length, runs)
    folder = Path(folder)
    metadata, _ = select_here(folder, options)
    signature = metadata.signature.within(read_model_config(folder).vocabulary)
    feeds = signature.random_feeds(Draw(batch, length, seed=seed))
    with tempfile.TemporaryDirectory() as place:
        session = open_model(folder, metadata, options, profile=Path(place) / "profile")
        for _ in range(_WARMUP + runs):
            session.run(None, feeds)
        return _read(session, runs)


def time_by(nodes: Iterable[NodeTime], key: Callable[[NodeTime], str]) -> dict[str, float]:
    """Add up times.

    Args:
        nodes: of one profile.
        key: what to group by, as in `lambda node: node.operator`.

    Returns:
        Milliseconds of one run by key, the largest first.
    """
    total: dict[str, float] = defaultdict(float)
    for node in nodes:
        total[key(node)] += node.ms
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _check_counts(batch: int, length: int, runs: int) -> None:
    if runs < 1 or batch < 1 or length < 1:
        raise InputError(f"batch, length and runs must be at least 1, got {batch}, {length} and {runs}")


def _ms(call: Callable[[], object], clock: Clock) -> float:
    start = clock()
    call()
    return 1e3 * (clock() - start)


def _read(session: Any, runs: int) -> tuple[NodeTime, ...]:
    """Return the nodes of a session of onnxruntime that was profiled."""
    return tuple(_nodes(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")), runs))


def _nodes(events: list[dict[str, object]], runs: int) -> Iterable[NodeTime]:
    seen: dict[str, tuple[str, list[float]]] = {}
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if event.get("cat") != "Node" or not name.endswith("_kernel_time") or not isinstance(arguments, dict):
            continue
        operator, times = seen.setdefault(name.removesuffix("_kernel_time"), (str(arguments.get("op_name")), []))
        times.append(float(str(event["dur"])) / 1000.0)
    for name, (operator, times) in seen.items():
        yield NodeTime(name, operator, median(times[-runs:]))
