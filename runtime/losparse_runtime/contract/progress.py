"""How long work says where it is: one protocol for all packages, which the command line draws as bars.

with progress.stage("timing", total=4) as advance:
    advance(1)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Reports what was done since the last report."""

    def __call__(
        self, done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None
    ) -> None:
        """Report.

        Args:
            done: how much was done since the last call; negative to begin anew.
            total: how much there is to do, where that is known now and was not before.
            title: what is being done now.
            note: what is worth saying beside it, as the loss.
        """


class Progress(Protocol):
    """Is told of one piece of work, as stages after one another."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Show a stage while the block runs; yields what reports in it.

        Args:
            title: what is being done.
            total: how much there is to do, where that is known.
        """


def unheard(done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None) -> None:
    """Report to nobody: an `Advance`."""


class Phases:
    """Reports phases of one stage, each of which has its own title and begins at nothing.

    Args:
        advance: of the stage.
        title: put in front of the titles of phases.
    """

    def __init__(self, advance: Advance = unheard, title: str = "") -> None:
        self._advance, self._before = advance, f"{title}: " if title else ""
        self._phase, self._reached = "", 0

    def more(self, phase: str, done: int, total: int) -> None:
        """Report how much more of a phase is done; another phase than before begins anew.

        Args:
            phase: what is being done.
            done: how much was done since the last report of it.
            total: how much there is to do.
        """
        self.at(phase, done if phase != self._phase else self._reached + done, total)

    def at(self, phase: str, done: int, total: int) -> None:
        """Report how much of a phase is done in all; see `more`."""
        if phase != self._phase:  # first, so that what is done counts for the new phase's pace
            self._advance(-self._reached, total=total, title=f"{self._before}{phase}")
            self._phase, self._reached = phase, 0
        self._advance(done - self._reached)
        self._reached = done


class _Silent:
    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        yield unheard


class StageTimes:
    """A progress that shows nothing itself, and notes how long stages took.

    Args:
        inner: shows the stages.

    Attributes:
        seconds: wall time of the stages that have ended, by title.
    """

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Show a stage, and note how long it took; see `Progress`."""
        started = time.perf_counter()
        with self._inner.stage(title, total) as advance:
            yield advance
        self.seconds[title] = self.seconds.get(title, 0.0) + time.perf_counter() - started


SILENT: Progress = _Silent()
"""A progress that nobody sees."""
