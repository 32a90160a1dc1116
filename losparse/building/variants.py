"""The steps between the checkpoint and the gates: the ONNX variants, how right and how fast they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import read_metadata, write_json

from ..environment import timing_report
from ..errors import LosparseError
from .opponents import opened
from .recipe import SHAPES, BuildRecipe
from .work import Work, defaults_of, task_of

if TYPE_CHECKING:
    from losparse_runtime import Session

logger = logging.getLogger(__name__)

DENSE, DENSE_INT8 = "dense", "dense-int8"
"""Names of the baseline in reports; the first is what speedups are against."""
OF_BASELINE = {"fp32": DENSE, "int8": DENSE_INT8}
"""Names of the baseline's variants in reports."""


def export_baseline(work: Work) -> None:
    """Export the dense model in fp32 and in int8, as a user without losparse's compression would have it."""
    settings = replace(
        work.recipe.export, precision=tuple(OF_BASELINE), **defaults_of("tune", "threads", "weight_bits")
    )
    report = work.tools.export(
        work.dense, work.baseline, settings, task=task_of(work), overwrite=True, progress=work.progress
    )
    for name, why in report.failed.items():
        logger.warning("the dense model in %s is left out of the comparison: %s", name, why)


def export_candidates(work: Work) -> None:
    """Export every variant; those that PyTorch does not confirm are noted, and left out."""
    from losparse_export import TextFile

    data = work.recipe.data
    columns = data.text_column, data.pair_column
    source = data.calibration or data.measured if work.recipe.export.calibrated else None
    report = work.tools.export(
        work.compressed,
        work.candidates,
        work.recipe.export,
        task=task_of(work),
        calibration=None if source is None else TextFile(source, *columns),
        overwrite=True,
        progress=work.progress,
    )
    write_json(work.facts("export"), {"failed": dict(report.failed)})


def measure_accuracy(work: Work) -> None:
    """Answer the labelled texts with PyTorch, the dense model and every variant."""
    from losparse_export import TextFile

    data = work.recipe.data
    assert data.measured is not None, "a recipe without labelled texts has no such step"
    baseline = read_metadata(work.baseline).folder.variants
    found = work.tools.accuracy(
        work.candidates,
        TextFile(data.measured, data.text_column, data.pair_column, data.label_column),
        reference=work.compressed,
        against={OF_BASELINE[name]: (work.baseline, name) for name in baseline},
        progress=work.progress,
    )
    write_json(work.facts("accuracy"), found)


def measure_times(work: Work) -> None:
    """Time the dense model, what a user gets of it for nothing, and every variant, in turns."""
    from losparse_runtime import benchmark

    bench = work.recipe.bench
    with ExitStack() as stack:
        sessions = open_sessions(work)
        shapes = shapes_of(work, min(session.max_length for session in sessions.values()))
        opponents = stack.enter_context(opened(work, sessions[DENSE]))
        found = benchmark(
            sessions, shapes, opponents=opponents, min_seconds=bench.seconds, memory=True, progress=work.progress
        )
        times = timing_report(found.to_dict())
        for opponent in opponents.values():
            times["versions"] |= opponent.facts.versions
    for entry in times["models"].values():
        entry["folder"] = Path(entry["folder"]).name
    write_json(work.facts("bench"), times)


def open_sessions(work: Work) -> dict[str, Session]:
    """Open the baseline and every candidate, by the names of reports; the dense model in fp32 is the first."""
    from losparse_runtime import Session

    threads = work.recipe.bench.threads
    names = [(work.baseline, variant, name) for variant, name in OF_BASELINE.items()]
    names += [(work.candidates, name, name) for name in read_metadata(work.candidates).folder.variants]
    found = {}
    for folder, variant, name in names:
        if variant in read_metadata(folder).folder.variants:
            found[name] = Session(folder, variant=variant, threads=threads, spinning=threads == 1)
    return found


def shapes_of(work: Work, longest: int) -> Sequence[tuple[int, int]]:
    """Return the shapes that are timed.

    Args:
        work: of the build.
        longest: positions of the model, in tokens.

    Raises:
        LosparseError: the recipe names a shape that is too long.
    """
    shapes = work.recipe.bench.shapes
    if shapes is None:
        return [shape for shape in SHAPES if shape[1] <= longest] or [(1, longest)]
    return _fitting(shapes, longest)


def check_shapes(recipe: BuildRecipe, config: Mapping[str, Any]) -> None:
    """Refuse a shape that is too long for the model, before anything is trained.

    Args:
        recipe: of the build.
        config: of the dense model, as its config.json has it.

    Raises:
        LosparseError: see above.
    """
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int):
        _fitting(recipe.bench.shapes or (), longest)


def _fitting(shapes: Sequence[tuple[int, int]], longest: int) -> Sequence[tuple[int, int]]:
    for batch, length in shapes:
        if length > longest:
            raise LosparseError(
                f"bench.shapes has {batch} x {length}, and the model has {longest} positions; shorten it"
            )
    return shapes


def read_facts(work: Work, step: str) -> dict[str, Any] | None:
    """Return what a step found out; None where the recipe has no such step."""
    file = work.facts(step)
    return dict(json.loads(file.read_bytes())) if file.is_file() else None
