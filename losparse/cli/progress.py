"""How far a command is, on stderr: bars on a terminal, drawn by `rich`; anywhere else a line a minute.

With --verbose, a stage that has ended is a line too, where no bar is drawn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from losparse_runtime.contract.progress import Advance

from .periodic import EVERY_S, Clock, PeriodicLine, beating


class StderrProgress:
    """The progress of one command, told on stderr."""

    def __init__(
        self,
        *,
        verbose: bool,
        draws: bool | None = None,
        every_s: float = EVERY_S,
        clock: Clock = time.time,
        terminal: TextIO | None = None,
    ) -> None:
        """Draw bars on a terminal, or if told to; elsewhere print a line for each stage if `verbose`.

        Args:
            verbose: print a line at the end of each stage.
            draws: draw bars; default: where stderr is a terminal.
            every_s: seconds between two lines where no bar is drawn.
            clock: tells the time for these.
            terminal: where bars are drawn; default: stderr.
        """
        self.verbose, self.every_s, self.clock = verbose, every_s, clock
        self.terminal = terminal
        self.draws = (terminal or sys.stderr).isatty() if draws is None else draws

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
        else:
            line = PeriodicLine(title, total, every_s=self.every_s, clock=self.clock)
            with beating(line):
                yield line.advance
        seconds = time.perf_counter() - started
        if self.verbose and not self.draws:
            print(f"losparse: {title}: {seconds:.1f} s", file=sys.stderr, flush=True)

    @contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        console = Console(file=self.terminal, stderr=True)
        # rich would send what is printed on stdout meanwhile to its own console.
        with Bars(*columns, TimeRemainingColumn(), console=console, transient=True, redirect_stdout=False) as bars:
            task = bars.add_task(title, total=total)

            def report(
                done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None
            ) -> None:
                bars.update(task, advance=done, total=total, description=title)  # None changes nothing

            yield report
