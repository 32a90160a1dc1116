"""`losparse bench ONNX_DIR [--against ONNX_DIR2]`: wall times, interleaved. Loads no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import write_json
from losparse_runtime.contract.variant import DEFAULT_PROVIDER

from ..environment import timing_report
from ..errors import LosparseError
from .output import check_json_target, human_bytes, print_table
from .parser import positive_int
from .progress import StderrProgress
from .run import add_session_options, add_variant_option, add_verify_options, warn_of_provider

if TYPE_CHECKING:
    from losparse_runtime import Benchmark

COLUMNS = ("batch", "length", "model", "median ms", "p90 ms", "p99 ms", "tokens/s", "speedup", "peak memory")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "folder",
        metavar="ONNX_DIR[:NAME]",
        help="what `losparse export` wrote; of several forms all are timed, or the one of a name, as in OUT:int8",
    )
    parser.add_argument(
        "--against", metavar="ONNX_DIR2[:NAME]", help="folder to compare with, the dense one mostly; read alike"
    )
    add_variant_option(parser, "all of them; the same as ONNX_DIR:NAME")
    parser.add_argument("--batch", type=positive_int, nargs="+", default=[1], metavar="N", help="texts in a run")
    parser.add_argument("--length", type=positive_int, nargs="+", default=[128], metavar="N", help="tokens in a text")
    parser.add_argument("--runs", type=positive_int, metavar="N", help="timed runs (default: at least 10)")
    parser.add_argument("--min-seconds", type=float, metavar="S", help="timed seconds a model (default 1)")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the peak memory, which takes more processes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write times, machine and versions to this file")
    parser.add_argument(
        "--record",
        action="store_true",
        help="also write the times into the folders, for this class of CPU: by them a session chooses among forms",
    )
    add_session_options(parser)
    add_verify_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Time the folder at every shape and print one table."""
    from losparse_runtime import benchmark, open_folders

    check_json_target(options.json)
    if options.runs is not None and options.min_seconds is not None:
        raise LosparseError("--runs says how often to run, so --min-seconds would change nothing; leave one out")
    places = named_places(options.folder, options.against, options.variant)
    if options.record and options.providers != (DEFAULT_PROVIDER,):
        raise LosparseError(f"--record is of times on {DEFAULT_PROVIDER}; leave --provider out, or --record")
    for folder, variant in places:
        warn_of_provider(folder, options, variant)
    folders = [folder if variant is None else (folder, variant) for folder, variant in places]
    found = benchmark(
        open_folders(folders, options.providers, options.threads, verify=options.verify_key or options.verify),
        [(batch, length) for batch in options.batch for length in options.length],
        runs=options.runs,
        min_seconds=options.min_seconds,
        memory=not options.no_memory,
        progress=StderrProgress(verbose=options.verbose),
    )
    report = timing_report(found.to_dict())
    title = f"{report['machine']['cpu']}, threads: {found.threads}"
    print_table(title, COLUMNS, table_rows(report["results"]), left=(2,))
    for line in notes(report["results"], compared=len(found.models) > 1):
        print(line)
    if options.json is not None:
        write_json(options.json, report)
    if options.record:
        _record(found)
    return 0


def named_places(folder: str, against: str | None = None, variant: str | None = None) -> list[tuple[Path, str | None]]:
    """Return the folders to time, the one to compare with first, each with the name of a form or None for all.

    Args:
        folder: as `ONNX_DIR` or `ONNX_DIR:NAME`; what exists under the whole name is a folder of that name.
        against: the same, of the folder to compare with.
        variant: the form of `folder`, where its text names none.

    Raises:
        LosparseError: a form is named twice.
    """
    place, name = _named(folder)
    if name is not None and variant is not None:
        raise LosparseError(f"'{folder}' names a form already; leave out --variant {variant}")
    own = place, name or variant
    return [own] if against is None else [_named(against), own]


def _named(text: str) -> tuple[Path, str | None]:
    folder, colon, name = text.rpartition(":")
    if not colon or not name or Path(text).exists() or not Path(folder).exists():
        return Path(text), None
    return Path(folder), name


def _record(found: Benchmark) -> None:
    """Write the times into the folders, and say which."""
    from losparse_runtime import record_times

    recorded = record_times(found)
    if recorded.calls:
        print(f"recorded: {', '.join(recorded.calls)}")
    if recorded.noisy:
        print(f"not recorded, since the machine was disturbed: {', '.join(recorded.noisy)}; time again when it is idle")


def table_rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
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
        for row in results
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
            "a speedup is measured in runs side by side: the median over the rounds, with its 95 % interval. "
            "It is not the ratio of the times in the table."
        )
    if any(row["noisy"] for row in results):
        worst = max(row["median_ms"] / row["min_ms"] for row in results)
        lines.append(
            f"noisy machine: a median run took up to {worst:.1f} times the fastest one of its model; do not quote the "
            "times. Quote a speedup with its interval."
        )
    return lines
