"""`losparse tune RECIPE OUT`: search for the compression that reaches a target, and build it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from .build import GATE_FAILED, print_report
from .output import print_table
from .parser import CommandParser, add_field_flags, given
from .progress import StderrProgress


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    from ..tuning.settings import Search

    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="as for `losparse build`")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the build, new or of an earlier search")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="other values for keys of the recipe")
    parser.rest = "overrides"
    parser.add_argument("--no-build", action="store_true", help="find the form, and build nothing")
    leave_out = ("target_latency", "target_bytes")
    add_field_flags(parser, "search", Search, leave_out=leave_out)
    parser.add_argument("--target-latency", metavar="MS", help="milliseconds that a run may take, as in 5 or 5ms")
    parser.add_argument("--target-bytes", metavar="SIZE", help="largest size of a variant's files, as in 20MB")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Search, and print what was found."""
    from ..building.recipe import BuildRecipe
    from ..tuning.result import COLUMNS, rows_of, write_result
    from ..tuning.run import tune
    from ..tuning.settings import Search

    values = given(options, "search")
    if options.target_latency is not None:
        values["target_latency"] = re.sub(r"\s*ms$", "", options.target_latency)
    if options.target_bytes is not None:
        values["target_bytes"] = options.target_bytes
    search = Search(**values)
    recipe = BuildRecipe.read(options.recipe, options.overrides)
    progress = StderrProgress(verbose=options.verbose)
    report = tune(recipe, options.out, search, builds=not options.no_build, progress=progress)
    print_table(f"{options.out}: {len(report.timed)} forms", COLUMNS, rows_of(report, search), left=(0, 4))
    for file in write_result(report, search).values():
        print(file)
    if report.nearest is not None:
        print(f"failed: no form reaches the target; the nearest, {report.nearest}")
    if report.built is not None:
        print_report(report.built)
    return 0 if report.passed else GATE_FAILED
