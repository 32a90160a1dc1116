"""`losparse doctor [ONNX_DIR ...]`: does it run here, how well, and what to do about it. Loads no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from losparse_runtime.contract.files import write_json

from .output import check_json_target
from .parser import CommandParser
from .run import add_provider_option


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.rest = "folders"
    parser.add_argument(
        "folders",
        nargs="*",
        default=[],
        metavar="ONNX_DIR",
        help="what `losparse export` wrote: which variant opens here and why, and whether it answers",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings to this file")
    add_provider_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look, print a line a finding, and return 1 if there is a problem."""
    from losparse_runtime.doctor.examine import examine

    check_json_target(options.json)
    found = examine(options.folders, options.providers)
    for finding in found.findings:
        way_out = f"; {finding.way_out}" if finding.way_out else ""
        print(" ".join(f"{finding.level:<8} {finding.about}: {finding.said}{way_out}".splitlines()))
    if options.json is not None:
        write_json(options.json, found.to_dict())
    return 0 if found.passed else 1
