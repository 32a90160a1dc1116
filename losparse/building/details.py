"""What the page of a build shows beside accuracy, size and speed: bytes, operators, layers, training, other keeps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from losparse_runtime.contract.files import read_folder, write_json
from losparse_runtime.contract.weights import weight_sizes

from ..methods import LoSparse
from ..reporting.details import Details, KeepTime, OperatorTime, RunTime, TrainingLog
from ..saving.parts import sum_parts
from ..saving.staging import REPORT
from .layers import describe_layers
from .variants import DENSE, DENSE_INT8, OF_BASELINE, open_sessions, shapes_of
from .work import Work

if TYPE_CHECKING:
    from losparse_runtime import Session


def look_into(work: Work) -> None:
    """Note what `measure_details` finds."""
    write_json(work.facts("details"), measure_details(work))


def measure_details(work: Work) -> Details:
    """Look into the models of a build.

    Args:
        work: a build whose variants are exported.

    Returns:
        See `Details`.
    """
    sessions = {name: each for name, each in open_sessions(work).items() if name != DENSE_INT8}
    shape = shapes_of(work, min(session.max_length for session in sessions.values()))[0]
    threads = next(iter(sessions.values())).threads
    operators, runs = operators_by_model(sessions, shape)
    del sessions
    return {
        "parts": parts_by_model(work),
        "operators": operators,
        "runs": runs,
        "layers": describe_layers(work),
        "training": training_logs(work),
        "keep": _keeps(work, shape, threads),
    }


def _places(work: Work) -> dict[str, tuple[Path, str]]:
    """Return folder and variant of the dense model in fp32 and of every candidate, by the names of reports."""
    dense = next(name for name, said in OF_BASELINE.items() if said == DENSE)
    names = {name: (work.candidates, name) for name in read_folder(work.candidates).variants}
    return {DENSE: (work.baseline, dense), **names}


def parts_by_model(work: Work) -> dict[str, dict[str, int]]:
    """Return where the bytes of every model are; see `losparse.saving.parts`."""
    found = {}
    for name, (place, variant) in _places(work).items():
        folder = read_folder(place)
        models = folder.variants[variant].models.values()
        sizes = [item for model in models for item in weight_sizes(place / model.file).items()]
        files = {file for model in models for file in model.names if file in folder.files}
        found[name] = sum_parts(sizes, sum(folder.files[file].bytes for file in files)).to_dict()
    return found


def operators_by_model(
    sessions: Mapping[str, Session], shape: tuple[int, int]
) -> tuple[dict[str, list[OperatorTime]], dict[str, RunTime]]:
    """Return where the time of a run goes by kind of operator, the most expensive first, and what a run takes.

    Args:
        sessions: by name; all run in turns.
        shape: texts in a run, and tokens in a text.
    """
    from losparse_runtime import profile_sessions, time_by

    operators: dict[str, list[OperatorTime]] = {}
    runs: dict[str, RunTime] = {}
    for name, found in profile_sessions(sessions, batch=shape[0], length=shape[1]).items():
        calls = Counter(node.operator for node in found.nodes)
        whole = found.nodes_ms
        operators[name] = [
            {"operator": operator, "ms": ms, "share": ms / whole if whole else 0.0, "calls": calls[operator]}
            for operator, ms in time_by(found.nodes, lambda node: node.operator).items()
        ]
        runs[name] = {"operators_ms": whole, "run_ms": found.run_ms, "profiled_ms": found.profiled_ms}
    return operators, runs


def training_logs(work: Work) -> dict[str, TrainingLog] | None:
    """Return what the trainings of a build logged; None where nothing was trained."""
    found: dict[str, TrainingLog] = {}
    for name, folder in (("dense", work.out / "dense"), ("compressed", work.compressed)):
        log = _log(folder)
        if log:
            found[name] = {"log": log}
    return found or None


def _log(folder: Path) -> list[Mapping[str, float]]:
    file = folder / REPORT
    return list(json.loads(file.read_bytes()).get("log", ())) if file.is_file() else []


def _keeps(work: Work, shape: tuple[int, int], threads: int) -> Sequence[KeepTime] | None:
    """Time random models of other keeps, where the method is one whose layers they can have."""
    from losparse_export import Call, latency_by_keep

    recipe, method = work.recipe, work.recipe.compress.method
    if not recipe.bench.keep or not isinstance(method, LoSparse):
        return None
    found = latency_by_keep(
        work.dense,
        method,
        recipe.bench.keep,
        call=Call(*shape, threads=threads),
        targets=recipe.compress.targets,
        ignore=recipe.compress.ignore,
        progress=work.progress,
    )
    return cast(list[KeepTime], found)
