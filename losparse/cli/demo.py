"""`losparse demo OUT`: the whole way on a real model and real texts that need no files of the user's."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import write_json

from ..saving.staging import check_out
from .bench import shown_speedup
from .output import check_json_target, human_bytes, print_table
from .parser import positive_int
from .progress import StderrProgress

if TYPE_CHECKING:
    from ..demo.run import DemoSetup


def add_options(parser: argparse.ArgumentParser, setup: DemoSetup | None = None) -> None:
    """Add the command's options.

    Args:
        parser: gets them.
        setup: what the demo is made of; see `run_demo`.
    """
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--steps", type=positive_int, metavar="N", help="steps of each training, for a quick try")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if losparse wrote it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write OUT/report.json to this file")
    parser.set_defaults(run=run, setup=setup)


def run(options: argparse.Namespace) -> int:
    """Do all of it, and print one table."""
    check_out(options.out, overwrite=options.overwrite)
    check_json_target(options.json)
    from ..demo.run import run_demo
    from ..training.opening import transformers_quiet

    progress = StderrProgress(verbose=options.verbose)
    with transformers_quiet():
        report = run_demo(
            options.out, steps=options.steps, overwrite=options.overwrite, setup=options.setup, progress=progress
        )
    _print(options.out, report)
    if options.json is not None:
        write_json(options.json, report)
    return 0 if all(row["check"]["passed"] for row in report["models"].values()) else 1


def _print(out: Path, report: Mapping[str, Any]) -> None:
    dense, compressed = report["models"].values()
    rows = [_row("test accuracy", dense["test_accuracy"], compressed["test_accuracy"], "{:.1%}".format)]
    for title, key, show in (
        ("parameters in layers", "layer_parameters", "{:,}".format),
        ("parameters in model", "model_parameters", "{:,}".format),
        ("checkpoint", "file_bytes", human_bytes),
        ("ONNX", "onnx_bytes", human_bytes),
    ):
        rows.append(_row(title, dense[key], compressed[key], show))
    times = {(row["batch"], row["length"], row["model"]): row for row in report["bench"]["results"]}
    for batch, length in dict.fromkeys((row["batch"], row["length"]) for row in report["bench"]["results"]):
        before, after = (times[batch, length, name] for name in report["models"])
        medians = [f"{each['median_ms']:.2f}" for each in (before, after)]
        rows.append(
            [
                f"{batch} x {length} tokens, median ms",
                *medians,
                f"{shown_speedup(after['speedup'], after['speedup_low'], after['speedup_high'])} faster",
            ]
        )
    differences = [row["check"]["parts"]["texts"]["max_abs"] for row in (dense, compressed)]
    shown = ["not finite" if each is None else f"{each:.1e}" for each in differences]
    rows.append(["largest difference to PyTorch", *shown, ""])
    classes, count = len(report["labels"]), report["examples"]["test"]
    title = f"{out}: {count} test texts of {classes} classes; {report['total_seconds']:.0f} s in all"
    print_table(title, ["", *report["models"], "compressed / dense"], rows)


def _row(title: str, dense: float, compressed: float, show: Callable[[Any], str]) -> list[str]:
    return [title, show(dense), show(compressed), f"{compressed / dense:.1%}" if dense else "-"]
