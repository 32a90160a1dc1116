"""Where the time of a run goes: onnxruntime's own profile, node by node.

Profiling itself takes time, a microsecond or two a node, so the sum is somewhat above what `measure` says; the shares
are what it is for.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..contract.config import read_model_config
from ..contract.feeds import Draw
from ..engine.chosen import select_here
from ..engine.opening import Options, open_model
from ..errors import InputError

_WARMUP = 2


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph as onnxruntime runs it, after its own fusions.

    Attributes:
        name: of the node; ours are paths of modules, as in "/encoder/layer.0/attention/self/query/Gemm".
        operator: as in "Gemm".
        ms: time of one run, the mean over the runs, in milliseconds.
    """

    name: str
    operator: str
    ms: float


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
    if runs < 1 or batch < 1 or length < 1:
        raise InputError(f"batch, length and runs must be at least 1, got {batch}, {length} and {runs}")
    folder = Path(folder)
    metadata, _ = select_here(folder, options)
    signature = metadata.signature.within(read_model_config(folder).vocabulary)
    feeds = signature.random_feeds(Draw(batch, length, seed=seed))
    with tempfile.TemporaryDirectory() as place:
        session = open_model(folder, metadata, options, profile=Path(place) / "profile")
        for _ in range(_WARMUP + runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return tuple(_nodes(events, runs))


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


def _nodes(events: list[dict[str, object]], runs: int) -> Iterable[NodeTime]:
    seen: dict[str, tuple[str, list[float]]] = {}
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if event.get("cat") != "Node" or not name.endswith("_kernel_time") or not isinstance(arguments, dict):
            continue
        operator, times = seen.setdefault(name.removesuffix("_kernel_time"), (str(arguments.get("op_name")), []))
        times.append(float(str(event["dur"])) / 1000.0)
    for name, (operator, times) in seen.items():
        counted = times[-runs:]
        yield NodeTime(name, operator, sum(counted) / len(counted))
