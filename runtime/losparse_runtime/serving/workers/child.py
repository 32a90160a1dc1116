"""What the supervisor knows of one worker's process."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

from .channel import Channel


@dataclass
class Child:
    """A worker's process.

    Attributes:
        index: which worker it is.
        pid: of the process.
        channel: to it.
        started: when, in seconds of the supervisor's clock.
        ready: its models are open.
        stopping: it takes no more connections.
        seats: of the connections it has.
        given: connections that it was ever given.
        beats: heartbeats when they were last seen to have gone on, at `alive`.
        hung: it was found hung, and is killed.
    """

    index: int
    pid: int
    channel: Channel
    started: float
    ready: bool = False
    stopping: bool = False
    seats: set[int] = field(default_factory=set)
    given: int = 0
    beats: int = 0
    alive: float = 0.0
    hung: bool = False

    @property
    def load(self) -> tuple[int, int]:
        """Who has less is given the next connection."""
        return len(self.seats), self.given

    def kill(self, number: signal.Signals) -> None:
        """Send a signal. The process is there: nobody else waits for it, and it is forgotten once it was waited for."""
        os.kill(self.pid, number)


def reason_of(status: int, *, hung: bool) -> str:
    """Return how a process ended, as in "signal 9".

    Args:
        status: as `os.waitpid` gives it.
        hung: it was killed because it gave no sign of life.
    """
    code = os.waitstatus_to_exitcode(status)
    if hung:
        return "it hung and was killed"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
