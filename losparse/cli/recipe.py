"""`losparse recipe`: a recipe to begin with, the schema of recipes, or a check of one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import LosparseError
from .parser import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    from ..building.starter import TASKS_TO_BUILD

    parser.add_argument(
        "recipe", nargs="?", type=Path, metavar="RECIPE", help="check this file, and print it with every default"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="other values for its keys, as `losparse build` takes them"
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema, by which editors complete and check recipes"
    )
    parser.add_argument(
        "--init",
        choices=TASKS_TO_BUILD,
        metavar="TASK",
        help=f"print a commented recipe for a task: {', '.join(TASKS_TO_BUILD)}",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to this new file, not to stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write what is asked for."""
    from ..building.recipe import BuildRecipe
    from ..building.starter import starter

    asked = [name for name in ("recipe", "schema", "init") if getattr(options, name)]
    if len(asked) != 1:
        raise LosparseError("losparse recipe takes one of RECIPE, --schema and --init TASK; see losparse recipe --help")
    if options.out is not None and options.out.exists():
        raise LosparseError(f"--out '{options.out}' exists; choose another file")
    if options.schema:
        text = json.dumps(BuildRecipe.json_schema(), indent=2, ensure_ascii=False) + "\n"
    elif options.init:
        text = starter(options.init)
    else:
        from yaml import safe_dump

        recipe = BuildRecipe.read(options.recipe, options.overrides)
        text = safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0
