"""`losparse bench ONNX_DIR [--against ONNX_DIR2]`: wall times, interleaved. Loads no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..environment import machine, versions
from ..errors import LosparseError
from .output import Progress, check_json_target, human_bytes, print_table, write_json
from .parser import positive_int
from .run import add_session_options

if TYPE_CHECKING:
    from losparse_runtime import Session

COLUMNS = ("batch", "length", "model", "median ms", "p90 ms", "p99 ms", "tokens/s", "speedup", "peak memory")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", type=Path, metavar="ONNX_DIR", help="what `losparse export` wrote")
    parser.add_argument(
        "--against", type=Path, metavar="ONNX_DIR2", help="folder to compare with, the dense one mostly"
    )
    parser.add_argument("--batch", type=positive_int, nargs="+", default=[1], metavar="N", help="texts in a run")
    parser.add_argument("--length", type=positive_int, nargs="+", default=[128], metavar="N", help="tokens in a text")
    parser.add_argument("--runs", type=positive_int, metavar="N", help="timed runs (default: at least 10)")
    parser.add_argument("--min-seconds", type=float, metavar="S", help="timed seconds a model (default 1)")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the peak memory, which takes more processes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write times, machine and versions to this file")
    add_session_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Time the folder at every shape and print one table."""
    from losparse_runtime import Session

    check_json_target(options.json)
    if options.runs is not None and options.min_seconds is not None:
        raise LosparseError("--runs says how often to run, so --min-seconds would change nothing; leave one out")
    folders = [options.folder] if options.against is None else [options.against, options.folder]
    sessions = {
        name: Session(folder, providers=options.providers, threads=options.threads)
        for name, folder in zip(_names(folders), folders, strict=True)
    }
    check_alike(list(sessions.values()))
    report = bench(
        sessions,
        [(batch, length) for batch in options.batch for length in options.length],
        Progress(verbose=options.verbose),
        runs=options.runs,
        min_seconds=options.min_seconds,
        memory=not options.no_memory,
    )
    title = f"{report['machine']['cpu']}, threads: {report['threads']}"
    print_table(title, COLUMNS, table_rows(report), left=(2,))
    for line in notes(report["results"], compared=options.against is not None):
        print(line)
    if options.json is not None:
        write_json(options.json, report)
    return 0


def check_alike(sessions: list[Session], *, labels: bool = True) -> None:
    """Refuse to compare models that do different things.

    Args:
        sessions: of the models.
        labels: whether their labels must be equal too.

    Raises:
        LosparseError: task, labels, inputs or outputs differ.
    """
    first, *others = sessions
    for other in others:
        for what, a, b in (
            ("task", first.task, other.task),
            ("labels", first.labels, other.labels),
            ("inputs", first.inputs, other.inputs),
            ("outputs", first.outputs, other.outputs),
        ):
            if a != b and (labels or what != "labels"):
                raise LosparseError(
                    f"only folders of the same model can be compared; the {what} of '{first.folder}' "
                    f"and '{other.folder}' differ: {a!r} and {b!r}"
                )


def bench(
    sessions: dict[str, Session], shapes: list[tuple[int, int]], progress: Progress, **settings: Any
) -> dict[str, Any]:
    """Time sessions in turns at every shape.

    Args:
        sessions: by name; speedups are against the first.
        shapes: texts in a run, tokens in a text.
        progress: shows one bar over the shapes.
        settings: `runs`, `min_seconds` and `memory` of `losparse_runtime.timing.latency`.

    Returns:
        The report, as JSON values.
    """
    from losparse_runtime import measure

    first = next(iter(sessions.values()))
    results = []
    with progress.stage("timing", len(shapes)) as advance:
        for batch, length in shapes:
            times = measure(sessions, batch=batch, length=length, **settings)
            results += [
                {"batch": batch, "length": length, "model": name, **latency.to_dict()}
                for name, latency in times.items()
            ]
            advance(1)
    return {
        "format": 1,
        "machine": machine(),
        "versions": versions("onnxruntime", "onnxruntime-gpu", "numpy"),
        "providers": list(first.providers),
        "threads": first.threads,
        "models": {
            name: {"folder": str(session.folder), "fingerprint": session.metadata.fingerprint}
            for name, session in sessions.items()
        },
        "results": results,
    }


def table_rows(report: dict[str, Any]) -> list[list[str]]:
    """Return the cells of `COLUMNS` for every result."""
    return [
        [
            str(row["batch"]),
            str(row["length"]),
            row["model"],
            *(f"{row[key]:.2f}" for key in ("median_ms", "p90_ms", "p99_ms")),
            f"{row['tokens_per_s']:,.0f}",
            shown_speedup(row["speedup"], row["speedup_low"], row["speedup_high"]),
            "-" if row["peak_memory_bytes"] is None else human_bytes(row["peak_memory_bytes"]),
        ]
        for row in report["results"]
    ]


def shown_speedup(speedup: float, low: float, high: float) -> str:
    """Write a speedup with its interval, which that of a model over itself has none of."""
    return f"{speedup:.2f}x" if low == high else f"{speedup:.2f}x ({low:.2f}-{high:.2f})"


def notes(results: Sequence[Mapping[str, Any]], *, compared: bool) -> list[str]:
    """Say what speedups are of, and whether the times are worth anything.

    Args:
        results: with "median_ms", "min_ms" and "noisy" of every model.
        compared: whether there is more than one model.
    """
    lines = []
    if compared:
        lines.append(
            "speedup: of runs side by side, median over the rounds (95 % interval); not of the medians beside it"
        )
    if any(row["noisy"] for row in results):
        worst = max(row["median_ms"] / row["min_ms"] for row in results)
        lines.append(
            f"noisy machine: a median run took up to {worst:.1f} times the fastest one of its model; do not quote the "
            "times, and speedups within their interval alone"
        )
    return lines


def _names(folders: list[Path]) -> list[str]:
    """Return the folders' own names, or their paths where the names are equal."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return names if len(set(names)) == len(names) else [f"{name} ({place})" for place, name in enumerate(names, 1)]
