"""Memory that the supervisor and its workers share: what is known of a worker when it is no more.

A byte for each connection says how far its request is, and two numbers what was written to it. A number for each worker
counts its heartbeats, and a text says why it could not start. Each place has one writer.
"""

from __future__ import annotations

import mmap

from ..connections import Stage

_COUNT_BYTES = 8
_TEXT_BYTES = 1024


class Table:
    """The shared memory; made before the workers are forked.

    Args:
        seats: connections that may be open at once.
        workers: how many.
    """

    def __init__(self, seats: int, workers: int) -> None:
        self._texts = workers * _COUNT_BYTES
        self._stages = self._texts + workers * _TEXT_BYTES
        counts = self._stages + seats + -seats % _COUNT_BYTES
        self._memory = mmap.mmap(-1, counts + seats * 2 * _COUNT_BYTES)
        self._beats = memoryview(self._memory)[: self._texts].cast("Q")
        self._counts = memoryview(self._memory)[counts:].cast("Q")

    def note(self, seat: int, stage: Stage) -> None:
        """Say how far the request of a connection is."""
        self._memory[self._stages + seat] = stage

    def stage(self, seat: int) -> Stage:
        """Return what was said last."""
        return Stage(self._memory[self._stages + seat])

    def open(self, seat: int) -> None:
        """Begin with a new connection."""
        self._counts[2 * seat] = self._counts[2 * seat + 1] = 0
        self.note(seat, Stage.IDLE)

    def wrote(self, seat: int, count: int) -> None:
        """Say before it that so many bytes of an answer are given to the kernel."""
        before, after = 2 * seat, 2 * seat + 1
        if self.stage(seat) is not Stage.ANSWERING:
            self._counts[before] = self._counts[after]
        self._counts[after] += count

    def written(self, seat: int) -> tuple[int, int]:
        """Return how many bytes the connection was to be given before its last answer, and with it."""
        return self._counts[2 * seat], self._counts[2 * seat + 1]

    def beat(self, worker: int) -> None:
        """Say that a worker's event loop goes round."""
        self._beats[worker] += 1

    def beats(self, worker: int) -> int:
        """Return how often it did."""
        return self._beats[worker]

    def write_text(self, worker: int, text: str) -> None:
        """Leave a line for the supervisor; what is too long is cut."""
        data = text.encode()[:_TEXT_BYTES]
        begin = self._texts + worker * _TEXT_BYTES
        self._memory[begin : begin + _TEXT_BYTES] = data.ljust(_TEXT_BYTES, b"\0")

    def take_text(self, worker: int) -> str:
        """Return the line that a worker left, and forget it; "" where there is none."""
        begin = self._texts + worker * _TEXT_BYTES
        text = self._memory[begin : begin + _TEXT_BYTES].rstrip(b"\0").decode(errors="ignore")
        self.write_text(worker, "")
        return text
