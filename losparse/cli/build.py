"""`losparse build RECIPE OUT`: compress, export, check, time, gate and report, as one recipe says."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import write_json

from ..errors import LosparseError
from .output import check_json_target, human_bytes, print_table
from .parser import CommandParser
from .progress import StderrProgress

if TYPE_CHECKING:
    from ..building.run import BuildReport, Planned

GATE_FAILED = 1


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    from ..building.steps import STEPS

    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML or JSON; `losparse recipe` writes one")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, or of a build to bring up to date")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="other values for keys of the recipe, as in compress.method.keep=0.3",
    )
    parser.rest = "overrides"
    parser.add_argument(
        "--from",
        dest="start",
        choices=[step.name for step in STEPS],
        help="run this step again, and all that follow, whatever changed",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why, and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write OUT/build.json to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Build, and print what came of it."""
    from ..building.run import build, plan_build

    check_json_target(options.json)
    if options.dry_run:
        if options.json is not None:
            raise LosparseError("--dry-run builds nothing, so --json would have nothing to write; leave one out")
        _print_plan(plan_build(options.recipe, options.out, overrides=options.overrides, start=options.start))
        return 0
    report = build(
        options.recipe,
        options.out,
        overrides=options.overrides,
        start=options.start,
        progress=StderrProgress(verbose=options.verbose),
    )
    print_report(report)
    if options.json is not None:
        write_json(options.json, report.facts)
    return 0 if report.passed else GATE_FAILED


def _print_plan(planned: list[Planned]) -> None:
    rows = [[each.step, each.state, each.does, "; ".join(each.reasons)] for each in planned]
    print_table("", ["step", "state", "what it does", "why"], rows, left=(0, 1, 2, 3))


def print_report(report: BuildReport) -> None:
    """Print the table of a build, what failed, and where the page is."""
    facts = report.facts
    shapes = list(dict.fromkeys((row["batch"], row["length"]) for row in (facts["bench"] or {}).get("results", ())))
    columns = ["model", "size", facts["metric"] or "accuracy", *(f"{batch} x {length}" for batch, length in shapes)]
    rows = [[name, *_cells(report, name, shapes)] for name in facts["models"]]
    ran = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.ran.items())
    print_table(f"{report.folder}: {facts['name']} ({ran or 'nothing to do'})", columns, rows)
    for line in report.failures:
        print(f"failed: {line}")
    shipped = (
        f"{report.folder / 'onnx'}: {', '.join(report.shipped)}" if report.shipped else "nothing: every variant failed"
    )
    print(f"shipped: {shipped}")
    print(f"page: {report.folder / 'report.html'}")


def _cells(report: BuildReport, name: str, shapes: list[tuple[int, int]]) -> list[str]:
    entry, bench = report.facts["models"][name], report.facts["bench"] or {}
    accuracy = entry.get("accuracy")
    cells = ["" if entry["bytes"] is None else human_bytes(entry["bytes"])]
    cells.append("" if accuracy is None else _with_error(accuracy))
    times = {(row["batch"], row["length"]): row for row in bench.get("results", ()) if row["model"] == name}
    for shape in shapes:
        row = times.get(shape)
        cells.append("" if row is None else f"{row['median_ms']:.2f} ms, {row['speedup']:.1f}x")
    return cells


def _with_error(accuracy: Mapping[str, Any]) -> str:
    """Write a metric with its standard error; of a single text there is none."""
    error = "" if accuracy["error"] is None else f" ± {accuracy['error']:.4f}"
    return f"{accuracy['value']:.4f}{error}"
