"""What the commands print: results on stdout, JSON into files.

On a terminal `rich` draws tables; anywhere else they are aligned text. What is said while a command works is in
`progress`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ..errors import LosparseError


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int] = (0,),
    out: TextIO | None = None,
) -> None:
    """Print a table.

    Args:
        title: printed above; empty for none.
        columns: headings.
        rows: cells as text, as many in a row as there are columns.
        left: places of the columns that are aligned left; the others are aligned right.
        out: where; default: stdout.
    """
    out = sys.stdout if out is None else out
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    if out.isatty():
        _print_rich(title, columns, rows, left, out)
        return
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    if title:
        print(title, file=out)
    for row in [columns, *rows]:
        cells = (
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip(), file=out)


def _print_rich(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int], out: TextIO
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if place in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=out).print(table)


def check_json_target(path: Path | None) -> None:
    """Refuse a --json file that cannot be written, before the work it reports on.

    Raises:
        LosparseError: its folder does not exist or takes no files, or it is a folder itself.
    """
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise LosparseError(f"--json must be a file in an existing folder, got '{path}'")
    if not os.access(path.absolute().parent, os.W_OK):
        raise LosparseError(f"--json must be a file in a folder that can be written to, got '{path}'")


def human_bytes(count: int) -> str:
    """Return a size as people read it: 1,000,000 bytes are 1.0 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
