"""`losparse report OUT`: the page of a build, with Markdown and JSON beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from .parser import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of `losparse build`")
    parser.add_argument("--against", type=Path, metavar="OTHER", help="folder of another build, to show side by side")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the report, and say where it is."""
    from ..reporting import collect_report, write_report

    files = write_report(options.out, options.against)
    print(collect_report(options.out, options.against)["headline"])
    for file in files.values():
        print(file)
    return 0
