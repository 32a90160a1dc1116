"""Resident memory of a server while it is loaded, and whether it grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .processes import Server

_MIB = 1024 * 1024
_EVERY_S = 0.25
MOST_GROWTH = 16 * _MIB
"""Bytes of growth over a load that still count as flat: what allocators and arenas still take after the first quarter,
measured in single MiB. A leak of 1 KiB a request is above it after 16,000 requests."""


class Watched:
    """Samples of resident memory over time."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.bytes: list[int] = []

    @property
    def growth(self) -> float:
        """Bytes by which a line through all samples but the first quarter rises."""
        part = slice(len(self.times) // 4, None)
        times, sizes = np.array(self.times[part]), np.array(self.bytes[part], np.float64)
        if len(times) < 2:
            return 0.0
        return float(np.polyfit(times - times[0], sizes, 1)[0] * (times[-1] - times[0]))

    @property
    def flat(self) -> bool:
        """Whether it does not grow by more than is allowed."""
        return self.growth <= MOST_GROWTH

    @property
    def words(self) -> str:
        """All of it in a few words."""
        seconds = self.times[-1] - self.times[len(self.times) // 4]
        return (
            f"resident {max(self.bytes) / _MIB:.0f} MiB at most, slope {self.growth / _MIB:+.1f} MiB over "
            f"{seconds:.0f} s (allowed {MOST_GROWTH // _MIB})"
        )


@contextmanager
def watched(server: Server) -> Iterator[Watched]:
    """Sample a server's memory until the end of the block."""
    found, over = Watched(), threading.Event()

    def sample() -> None:
        while True:
            found.times.append(time.perf_counter())
            found.bytes.append(server.memory_bytes())
            if over.wait(_EVERY_S):
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
