"""`losparse methods`: what there is, what each needs, and where it comes from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import write_json

from ..methods import METHODS, NO_METHOD
from .output import check_json_target, print_table

# Two tables of less than 120 columns, for one of more than 200.
_TABLES = (
    ("methods of `losparse compress --method`", (("what it does", "summary"), ("needs", "needs"))),
    ("what they cost", (("cost", "cost"), ("reference", "reference"))),
)
_NO_METHOD = {
    "summary": "every layer stays dense; with --keep-layers, fewer blocks",
    "needs": "labels, training",
    "cost": "a fine-tuning",
    "reference": "-",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    check_json_target(options.json)
    rows = [*(_row(name, kind) for name, kind in METHODS.items()), {"name": NO_METHOD, **_NO_METHOD}]
    for title, columns in _TABLES:
        headings = ["method", *(heading for heading, _ in columns)]
        print_table(title, headings, [[row["name"], *(row[key] for _, key in columns)] for row in rows], left=(0, 1, 2))
    if options.json is not None:
        write_json(options.json, {"methods": rows})
    return 0


def _row(name: str, kind: Any) -> dict[str, str]:
    return {
        "name": name,
        "summary": kind.description.summary,
        "needs": ", ".join(kind.description.needs) or "nothing",
        "cost": kind.description.cost,
        "reference": kind.description.reference,
    }
