"""The one timer of a connection: what it waits for, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable


class Watch:
    """Calls when what is waited for has not come in time.

    A timer of the event loop for every wait of every request would be most of what a request costs. So there is one,
    which looks when it fires whether it is late already, and else is set again.

    Args:
        loop: of the connection.
        on_late: called then, with what was waited for.
    """

    __slots__ = ("_due", "_loop", "_on_late", "_timer", "waits_for")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_late: Callable[[Hashable], None]) -> None:
        self._loop = loop
        self._on_late = on_late
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self.waits_for: Hashable = None

    def wait(self, what: Hashable, seconds: float | None) -> None:
        """Wait for something else from now on; the same keeps the time that it has.

        Args:
            what: is waited for.
            seconds: that it may take; None for any time.
        """
        if what != self.waits_for:
            self.again(what, seconds)

    def again(self, what: Hashable, seconds: float | None) -> None:
        """Wait from now on."""
        self.waits_for = what
        if seconds is None:
            self._due = None
            return
        self._due = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._due:
            self._set(self._due)

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._set(self._due)
            return
        self._due = None
        self._on_late(self.waits_for)
