"""What the commands print: results on stdout, progress on stderr, JSON into files.

On a terminal tables and progress bars are drawn by `rich`; anywhere else a table is aligned text and progress is a line
a minute (see `pulse`), and one line a stage with --verbose.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LosparseError
from .pulse import EVERY_S, Clock, Pulse, beating

Advance = Callable[..., None]
"""Reports progress: `advance(done)` adds; `total=` tells how much there is, `title=` what is being done now, `note=`
what is worth saying beside it."""


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> None:
    """Print a table on stdout.

    Args:
        title: printed above; empty for none.
        columns: headings.
        rows: cells as text, as many in a row as there are columns.
        left: places of the columns that are aligned left; the others are aligned right.
    """
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(title, columns, rows, left)
        return
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    if title:
        print(title)
    for row in [columns, *rows]:
        cells = (
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def _print_rich(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if place in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


class Progress:
    """Progress of one command on stderr, as stages after one another.

    Attributes:
        seconds: wall time of the stages that have ended, by title.
    """

    def __init__(
        self, *, verbose: bool, draws: bool | None = None, every_s: float | None = EVERY_S, clock: Clock = time.time
    ) -> None:
        """Draw bars on a terminal, or if told to; elsewhere print a line for each stage if `verbose`.

        Args:
            verbose: print a line at the end of each stage.
            draws: draw bars; default: where stderr is a terminal.
            every_s: seconds between two lines where no bar is drawn; None for none.
            clock: tells the time for these.
        """
        self.verbose, self.every_s, self.clock = verbose, every_s, clock
        self.draws = sys.stderr.isatty() if draws is None else draws
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Show a stage while the block runs; yields a function that reports progress in it.

        Args:
            title: what is being done.
            total: how much there is to do, if that is known.
        """
        started = time.perf_counter()
        if self.draws:
            with self._bar(title, total) as advance:
                yield advance
        elif self.every_s is None:
            yield _silent
        else:
            pulse = Pulse(title, total, every_s=self.every_s, clock=self.clock)
            with beating(pulse):
                yield pulse.advance
        seconds = time.perf_counter() - started
        self.seconds[title] = self.seconds.get(title, 0.0) + seconds
        if self.verbose and not self.draws:
            print(f"losparse: {title}: {seconds:.1f} s", file=sys.stderr, flush=True)

    @contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        # rich would send what is printed on stdout meanwhile to its own console.
        with Bars(*columns, TimeRemainingColumn(), console=console, transient=True, redirect_stdout=False) as bars:
            task = bars.add_task(title, total=total)

            def report(done: int, total: int | None = None, title: str | None = None, note: str | None = None) -> None:
                bars.update(task, advance=done, total=total, description=title)  # None changes nothing

            yield report


def _silent(done: int, total: int | None = None, title: str | None = None, note: str | None = None) -> None:
    """Report nothing."""


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and infinity are refused, since JSON has neither."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            json.dump(data, sink, indent=2, ensure_ascii=False, allow_nan=False)
            sink.write("\n")
        Path(temporary).chmod(0o644)  # mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
