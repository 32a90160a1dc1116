"""`losparse check ONNX_DIR [--reference DIR]`: is it as written, and the model it came from? Exit code 1 if not."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from losparse_runtime.contract.files import write_json

from ..errors import LosparseError
from .output import check_json_target, print_table
from .parser import refuse_idle
from .progress import StderrProgress
from .run import add_session_options, add_variant_option, warn_of_provider

if TYPE_CHECKING:
    from losparse_runtime import CheckReport
    from losparse_runtime.checking.report import CheckedPart, Judgement


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", type=Path, metavar="ONNX_DIR", help="what `losparse export` wrote")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="its checkpoint, a folder or hub id, or another ONNX folder (default: only what the folder itself says)",
    )
    parser.add_argument(
        "--golden", type=Path, metavar="FILE", help="what `losparse golden` recorded of the model: needs no torch"
    )
    parser.add_argument(
        "--data", metavar="F", help="texts to compare on: csv, tsv, jsonl, a hub data set, or txt (a text a line)"
    )
    parser.add_argument("--text-column", metavar="NAME", help="column of texts, words or questions")
    parser.add_argument("--pair-column", metavar="NAME", help="column of second texts or contexts")
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference allowed (default: that of the precision)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    add_variant_option(parser, "all of them")
    add_session_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare, print, and return 1 if something differs."""
    check_json_target(options.json)
    if options.golden is not None:
        return _run_golden(options)
    from losparse_export import check_folder

    refuse_idle(options, ["text_column", "pair_column"], ["data"])
    refuse_idle(options, ["data", "tolerance"], ["reference"])
    if options.tolerance is not None and not 0 <= options.tolerance < math.inf:
        raise LosparseError(f"--tolerance must be a finite number of 0 or more, got {options.tolerance}")
    warn_of_provider(options.folder, options, options.variant)
    report = check_folder(
        options.folder,
        options.reference,
        options.data,
        text_column=options.text_column,
        pair_column=options.pair_column,
        tolerance=options.tolerance,
        providers=options.providers,
        threads=options.threads,
        variant=options.variant,
        progress=StderrProgress(verbose=options.verbose),
    )
    return _finish(options, report, options.reference)


def _run_golden(options: argparse.Namespace) -> int:
    """Compare with golden outputs; no torch is loaded."""
    from losparse_runtime import check_golden

    names = ("reference", "data", "tolerance", "text_column", "pair_column")
    idle = [name for name in names if getattr(options, name) is not None]
    if idle:
        raise LosparseError(f"--golden holds reference, texts and bounds; leave out --{idle[0].replace('_', '-')}")
    warn_of_provider(options.folder, options, options.variant)
    report = check_golden(
        options.folder,
        options.golden,
        variant=options.variant,
        providers=options.providers,
        threads=options.threads,
    )
    return _finish(options, report, str(options.golden))


def _finish(options: argparse.Namespace, report: CheckReport, reference: str | None) -> int:
    """Print a report, and return the exit code."""
    _print(report)
    if options.json is not None:
        write_json(options.json, {"folder": str(options.folder), "reference": reference, **report.to_dict()})
    return 0 if report.passed else 1


def _print(report: CheckReport) -> None:
    for line in report.differences:
        print(f"differs: {' '.join(line.split())}")
    if report.judgement is not None:
        print_parts(report.parts, report.judgement)
    for name, other in report.others.items():
        for line in other.differences:
            print(f"differs: variant {name}: {' '.join(line.split())}")
        if other.judgement is not None:
            print_parts(other.parts, other.judgement)
    for name, why in report.skipped.items():
        print(f"not looked at: variant {name}: {why}")
    if report.judgement is None and report.passed:
        print("the files are as they were written; --reference compares them with a model")
    print(_verdict(report.passed))


def print_parts(parts: Mapping[str, CheckedPart], judged: Judgement) -> None:
    """Print the numbers of every part, and the first layer that differs."""
    from losparse_runtime.contract.task import TASKS

    # The largest entry of a vector is no answer; how far the worst of the vectors has turned is.
    vectors = TASKS[judged.task].embeds
    rows = [
        [
            name,
            _count(part.texts, part.parity.rows),
            f"{part.parity.max_abs:.1e}" if part.parity.finite else "not finite",
            f"{part.parity.centred_cosine:.6f}",
            f"{part.parity.cosine:.6f}" if vectors else f"{part.parity.top1_agreement:.2%}",
            _verdict(part.passed),
        ]
        for name, part in parts.items()
    ]
    variant = "" if judged.variant is None else f"variant {judged.variant} "
    title = f"{variant}against {judged.against}, {judged.precision}, largest difference allowed {judged.tolerance:.1e}"
    if judged.cosine is not None:
        title += f", cosine {judged.cosine} or more"
    last = "worst cosine" if vectors else "same largest entry"
    columns = ["inputs", "texts", "largest difference", "cosine", last, "verdict"]
    print_table(title, columns, rows)
    for part in parts.values():
        if part.first_layer is not None:
            print(f"first layer that differs: {part.first_layer}")


def _count(texts: int, rows: int) -> str:
    """Say how many texts were compared, and how many rows of outputs where every token has one."""
    return f"{texts:,}" if rows == texts else f"{texts:,} ({rows:,} rows)"


def _verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED"
