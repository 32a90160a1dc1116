"""A line a minute on stderr while a stage runs, where no bar is drawn: nobody has to guess whether a command hangs.

losparse: compressing: 120 of 900 (13 %), loss 0.4312, ends about 14:32
losparse: exporting: 3 min so far
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]
"""Seconds since the epoch."""

EVERY_S = 60.0


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class PeriodicLine:
    """What is known of a stage, and when it was said last.

    Args:
        title: what is being done.
        total: how much there is to do, if that is known.
        every_s: seconds between two lines.
        clock: tells the time.
        say: takes a line.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        every_s: float = EVERY_S,
        clock: Clock = time.time,
        say: Callable[[str], None] = _stderr,
    ) -> None:
        self.every_s, self._clock, self._say = every_s, clock, say
        self._lock = threading.Lock()
        self._title, self._note = title, ""
        self._started = self._said = clock()
        self._measure(total, 0)

    def advance(
        self, done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None
    ) -> None:
        """Report progress: an `Advance`."""
        with self._lock:
            self._done += done
            self._note = self._note if note is None else note
            if title is not None and title != self._title:
                self._title, self._note = title, ""
                self._measure(self._total, self._done)
            if total is not None:  # what was done by now was not done at this pace: a training that goes on, say
                self._measure(total, self._done)
        self.beat()

    def beat(self) -> None:
        """Say where the stage is, if that was not said for long enough."""
        with self._lock:
            now = self._clock()
            if now - self._said < self.every_s:
                return
            self._said = now
            line = self._line(now)
        self._say(line)

    def _measure(self, total: int | None, done: int) -> None:
        """Begin to measure the pace anew."""
        self._total, self._done = total, done
        self._since, self._before = self._clock(), done

    def _line(self, now: float) -> str:
        parts = [f"{math.floor((now - self._started) / 60)} min so far"]
        if self._total:
            parts = [f"{self._done:,} of {self._total:,} ({self._done / self._total:.0%})"]
        if self._note:
            parts.append(self._note)
        made = self._done - self._before
        if self._total and made > 0:
            left = (self._total - self._done) * (now - self._since) / made
            parts.append(f"ends about {time.strftime('%H:%M', time.localtime(now + left))}")
        return f"losparse: {self._title}: {', '.join(parts)}"


@contextmanager
def beating(line: PeriodicLine) -> Iterator[None]:
    """Let a thread beat while the block runs: some stages report nothing while torch or onnxruntime works."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(line.every_s):
            line.beat()

    thread = threading.Thread(target=beat, name="losparse progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
