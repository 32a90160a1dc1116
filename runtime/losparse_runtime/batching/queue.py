"""Which rows share the next run: the oldest, and those of about its length, as many as the limits allow."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BusyError, DeadlineError, InputError
from .rows import Job, Row

_PADDED = 1.25
"""Tokens of a run, padding included, for each token of a text: beyond it the padding costs more than another run."""
_FREE_PADDING = 16
"""Tokens of padding a row that count for nothing: a run of few tokens costs the same with some more."""


@dataclass(frozen=True)
class Limits:
    """How many rows share a run, and how many wait.

    Attributes:
        max_batch: rows in one run, >= 1.
        max_tokens: tokens in one run, padding included, >= 1; a longer row runs alone.
        queue: rows that may wait, >= 1.
    """

    max_batch: int = 32
    max_tokens: int = 4096
    queue: int = 512

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("max_batch", "max_tokens", "queue"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a whole number >= 1, got {value!r}")


class RowQueue:
    """Rows that wait, oldest first. Its owner locks.

    Args:
        limits: of a run and of the queue.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._rows: deque[Row] = deque()
        self._count = 0
        self._row_s = 0.0  # what a row took lately, on average

    def __len__(self) -> int:
        """Rows that wait."""
        return self._count

    @property
    def full(self) -> bool:
        """Whether nothing more is taken."""
        return self._count >= self.limits.queue

    @property
    def oldest(self) -> Row | None:
        """The row that came first."""
        return self._rows[0] if self._rows else None

    def put(self, rows: list[Row]) -> None:
        """Let the rows of a job wait.

        Raises:
            BusyError: there is no room for them. A job of more rows than there is room for at all is taken while
                nothing else waits.
        """
        count = sum(len(row.places) for row in rows)
        if self._count and self._count + count > self.limits.queue:
            raise BusyError(
                f"{self._count} rows wait already, and at most {self.limits.queue} may; try again later",
                self.retry_after_s(),
            )
        self._rows.extend(rows)
        self._count += count

    def retry_after_s(self) -> int:
        """Return whole seconds until what waits now will have been run, >= 1, by what rows took lately."""
        return max(1, math.ceil(self._count * self._row_s))

    def took(self, rows: int, seconds: float) -> None:
        """Learn what a run took."""
        each = seconds / rows
        self._row_s = each if not self._row_s else 0.9 * self._row_s + 0.1 * each

    def drop(self, now: float) -> list[Job]:
        """Take out rows of jobs that are dead or too late; returns the jobs that this failed."""
        if not any(row.job.dead or row.job.deadline <= now for row in self._rows):
            return []
        late, kept = [], deque[Row]()
        for row in self._rows:
            if row.job.dead:
                self._count -= len(row.places)
            elif row.job.deadline <= now:
                self._count -= len(row.places)
                row.job.fail(DeadlineError("the time for an answer was over before the model was free"))
                late.append(row.job)
            else:
                kept.append(row)
        self._rows = kept
        return late

    def clear(self) -> list[Job]:
        """Take out everything; returns the jobs that waited, each once."""
        jobs = list(dict.fromkeys(row.job for row in self._rows))
        self._rows.clear()
        self._count = 0
        return jobs

    def take(self) -> list[Row]:
        """Take out the rows of the next run: at least one, in the order in which they came."""
        first = self._rows[0]
        chosen = {id(row) for row in self._chosen(first)} | {id(first)}
        taken = [row for row in self._rows if id(row) in chosen]
        self._rows = deque(row for row in self._rows if id(row) not in chosen)
        self._count -= sum(len(row.places) for row in taken)
        return taken

    def _chosen(self, first: Row) -> Iterator[Row]:
        """Yield what joins the oldest row, nearest length first, while limits and padding allow."""
        mates = [row for row in self._rows if row is not first and row.key == first.key]
        mates.sort(key=lambda row: abs(row.length - first.length))
        rows, longest = len(first.places), first.length
        real = rows * first.length
        for row in mates:
            more, length = rows + len(row.places), max(longest, row.length)
            tokens = real + len(row.places) * row.length
            if more > self.limits.max_batch or more * length > self.limits.max_tokens:
                continue
            if more * length > _PADDED * tokens + _FREE_PADDING * more:
                continue
            rows, longest, real = more, length, tokens
            yield row
