"""`losparse demo OUT`: a build of a real model on real texts that needs no files of the user's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from losparse_runtime.contract.files import write_json

from .build import GATE_FAILED, print_report
from .output import check_json_target
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
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder to write, or of an earlier demo to bring up to date"
    )
    parser.add_argument("--steps", type=positive_int, metavar="N", help="steps of each training, for a quick try")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write OUT/build.json to this file")
    parser.set_defaults(run=run, setup=setup)


def run(options: argparse.Namespace) -> int:
    """Do all of it, and print one table."""
    check_json_target(options.json)
    from ..demo.run import run_demo

    progress = StderrProgress(verbose=options.verbose)
    report = run_demo(options.out, steps=options.steps, setup=options.setup, progress=progress)
    print_report(report)
    if options.json is not None:
        write_json(options.json, report.facts)
    return 0 if report.passed else GATE_FAILED
