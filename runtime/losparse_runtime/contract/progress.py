"""How long work says where it is: one protocol for all packages, which the command line draws as bars.

with progress.stage("timing", total=4) as advance:
advance(1)
"""

from __future__ import annotations

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


class _Silent:
    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        yield unheard


SILENT: Progress = _Silent()
"""A progress that nobody sees."""
