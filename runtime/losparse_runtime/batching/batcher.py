"""Threads that run what waits: batches form while the model is busy, so a lone caller waits for nobody."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from numpy.typing import NDArray

from ..contract.signature import Signature
from ..contract.tensors import Arrays
from ..errors import BusyError, LosparseRuntimeError, RunError, one_line
from .queue import Limits, RowQueue
from .rows import Job, Part, Row, join

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ran:
    """One run, as it is told to whoever counts.

    Attributes:
        rows: in it.
        tokens: in it, padding included.
        seconds: it took.
        waited_s: seconds that its oldest row had waited.
    """

    rows: int
    tokens: int
    seconds: float
    waited_s: float


def _unheard(ran: Ran) -> None:
    """Tell nobody."""


class Batcher:
    """Runs the rows of many jobs in few batches.

    Args:
        run: runs the model once, on inputs that its signature checked. Several threads call it where `runners` is
            above 1.
        signature: of the model.
        limits: of a batch and of the queue.
        side: where short rows are filled, "left" or "right".
        runners: threads that run the model.
        max_wait_s: seconds that a row may wait for others while a runner is idle.
        heard: is told of every run.
        clock: seconds, as `time.monotonic` gives them.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        signature: Signature,
        limits: Limits,
        *,
        side: str = "right",
        runners: int = 1,
        max_wait_s: float = 0.0,
        heard: Callable[[Ran], None] = _unheard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._run = run
        self._signature = signature
        self._side = side
        self._max_wait_s = max_wait_s
        self._heard = heard
        self.clock = clock
        self._queue = RowQueue(limits)
        self._wake = threading.Condition(threading.Lock())
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"losparse-runner-{number}", daemon=True)
            for number in range(runners)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether nothing more is taken now."""
        return self._queue.full

    def submit(self, rows: list[Row]) -> None:
        """Let rows wait for their run; their job is told when all are done.

        Raises:
            BusyError: there is no room, or the batcher is closing.
        """
        with self._wake:
            if self._closing:
                raise BusyError("the model is closing; try again")
            self._queue.put(rows)
            self._wake.notify()

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Stop; what waits is run first, or refused.

        Args:
            drain: run what waits; otherwise its jobs fail with `BusyError`.
            timeout_s: seconds to wait for the runs; None for as long as they take. What then still waits is refused.
        """
        with self._wake:
            self._closing = True
            refused = [] if drain else self._queue.clear()
            self._wake.notify_all()
        self._refuse(refused)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        with self._wake:
            refused = self._queue.clear()
        self._refuse(refused)

    def _refuse(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.fail(BusyError("the model is closing; try again")):
                job.done(job)

    def _work(self) -> None:
        while True:
            rows = self._next()
            if rows is None:
                return
            if rows:
                self._answer(rows)

    def _next(self) -> list[Row] | None:
        """Wait for the rows of the next run; None where the batcher is closed, [] where all were too late."""
        with self._wake:
            while not len(self._queue):
                if self._closing:
                    return None
                self._wake.wait()
            self._wait_for_mates()
            late = self._queue.drop(self.clock())
            rows = self._queue.take() if len(self._queue) else []
            if len(self._queue):
                self._wake.notify()  # another runner may be idle
        for job in late:
            job.done(job)
        return rows

    def _wait_for_mates(self) -> None:
        """Give others the time to join the oldest row; the lock is held."""
        while self._max_wait_s and not self._closing and 0 < len(self._queue) < self.limits.max_batch:
            oldest = self._queue.oldest
            left = 0.0 if oldest is None else oldest.since + self._max_wait_s - self.clock()
            if left <= 0:
                return
            self._wake.wait(left)

    def _answer(self, rows: list[Row]) -> None:
        """Run rows; where the run fails, each job's by itself, so that only the one at fault fails."""
        rows.sort(key=lambda row: id(row.job))  # stable: rows of one job side by side, in their order
        begin = self.clock()
        try:
            inputs, mask = join(self._signature, rows, self._side)
            outputs = self._run(inputs)
        except LosparseRuntimeError as error:
            self._answer_alone(rows, error)
            return
        except Exception as error:  # a runner that ends would leave every caller waiting for ever
            logger.exception("a run failed in an unexpected way")
            self._answer_alone(rows, RunError(f"the run failed: {one_line(error)}"))
            return
        took = self.clock() - begin
        with self._wake:
            self._queue.took(len(mask), took)
        self._heard(Ran(len(mask), mask.size, took, begin - min(row.since for row in rows)))
        _hand_out(rows, outputs, mask)

    def _answer_alone(self, rows: list[Row], error: Exception) -> None:
        jobs = [list(group) for _, group in groupby(rows, key=lambda row: row.job)]
        if len(jobs) > 1:
            for each in jobs:
                self._answer(each)
        elif jobs[0][0].job.fail(error):
            jobs[0][0].job.done(jobs[0][0].job)


def _hand_out(rows: Sequence[Row], outputs: Arrays, mask: NDArray[Any]) -> None:
    """Give every job what came of its rows; those that have all are told."""
    at = 0
    for job, group in groupby(rows, key=lambda row: row.job):
        places = [place for row in group for place in row.places]
        part = slice(at, at + len(places))
        at = part.stop
        try:
            over = job.take(Part(places, {name: array[part] for name, array in outputs.items()}, mask[part]))
        except LosparseRuntimeError as error:
            over = job.fail(error)
        except Exception as error:  # as with a run: the others of the batch have theirs to get
            logger.exception("reading outputs failed in an unexpected way")
            over = job.fail(RunError(f"the outputs cannot be read: {one_line(error)}"))
        if over:
            job.done(job)
