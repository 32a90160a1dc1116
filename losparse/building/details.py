"""What the page of a build shows beside accuracy, size and speed: bytes, operators, layers, training, other keeps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import read_folder, write_json
from losparse_runtime.contract.weights import weight_sizes

from ..methods import LoSparse
from ..saving.parts import sum_parts
from ..saving.staging import REPORT
from .layers import describe_layers
from .variants import DENSE, OF_BASELINE, open_sessions, shapes_of
from .work import Work


def look_into(work: Work) -> None:
    """Note what `measure_details` finds."""
    write_json(work.facts("details"), measure_details(work))


def measure_details(work: Work) -> dict[str, Any]:
    """Look into the models of a build.

    Args:
        work: a build whose variants are exported.

    Returns:
        JSON values: "parts", "operators", "layers", "training" and "keep"; None where there is none of it.
    """
    sessions = open_sessions(work)
    shape = shapes_of(work, min(session.max_length for session in sessions.values()))[0]
    threads = next(iter(sessions.values())).threads
    del sessions
    return {
        "parts": parts_by_model(work),
        "operators": operators_by_model(work, shape, threads),
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


def operators_by_model(work: Work, shape: tuple[int, int], threads: int) -> dict[str, list[dict[str, Any]]]:
    """Return the milliseconds of one run by kind of operator, the largest first, of every model.

    Args:
        work: of the build.
        shape: texts in a run, and tokens in a text.
        threads: of onnxruntime.
    """
    from losparse_runtime import Options, profile_nodes, time_by

    found = {}
    for name, (place, variant) in _places(work).items():
        provider = read_folder(place).variants[variant].provider
        options = Options((provider,), threads, variant=variant)
        nodes = profile_nodes(place, options, batch=shape[0], length=shape[1])
        calls, times = Counter(node.operator for node in nodes), time_by(nodes, lambda node: node.operator)
        whole = sum(times.values())
        found[name] = [
            {"operator": operator, "ms": ms, "share": ms / whole if whole else 0.0, "calls": calls[operator]}
            for operator, ms in times.items()
        ]
    return found


def training_logs(work: Work) -> dict[str, dict[str, Any]] | None:
    """Return what the trainings of a build logged; None where nothing was trained."""
    found = {}
    for name, folder in (("dense", work.out / "dense"), ("compressed", work.compressed)):
        log = _log(folder)
        if log:
            found[name] = {"log": log}
    return found or None


def _log(folder: Path) -> list[Mapping[str, float]]:
    file = folder / REPORT
    return list(json.loads(file.read_bytes()).get("log", ())) if file.is_file() else []


def _keeps(work: Work, shape: tuple[int, int], threads: int) -> Sequence[Mapping[str, Any]] | None:
    """Time random models of other keeps, where the method is one whose layers they can have."""
    from losparse_export import Call, latency_by_keep

    recipe, method = work.recipe, work.recipe.compress.method
    if not recipe.bench.keep or not isinstance(method, LoSparse):
        return None
    return latency_by_keep(
        work.dense,
        method,
        recipe.bench.keep,
        call=Call(*shape, threads=threads),
        targets=recipe.compress.targets,
        ignore=recipe.compress.ignore,
        progress=work.progress,
    )
