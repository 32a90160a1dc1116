"""An onnxruntime session while it is open: who is using it, and its end.

Closing waits until nobody is inside a call any more, and what comes later is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ..errors import RunError
from .forks import remember, require_own
from .memory import release_memory


def _nothing() -> None:
    """Let go of nothing."""


class Held:
    """An onnxruntime session, for calls of any threads of this process until it is closed.

    Args:
        session: an `onnxruntime.InferenceSession`.
        folder: that it is of, for messages.
    """

    def __init__(self, session: Any, folder: Path) -> None:
        self._session: Any = session
        self._folder = folder
        self._process = remember(session)
        self._depth: dict[int, int] = {}  # calls that a thread is inside of, by thread
        self._changed = threading.Condition()
        self.closed = False

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Give the session for one call; calls inside a call are part of it, and end before it is closed.

        Raises:
            RunError: it is closed, or this process was forked from the one that opened it.
        """
        # First of all: a fork may have copied the lock while another thread held it.
        require_own(self._folder, self._process)
        thread = threading.get_ident()
        with self._changed:
            outer = self._depth.get(thread, 0)
            if self.closed and not outer:
                raise RunError(f"{self._folder}: this Session was closed; open another one")
            self._depth[thread] = outer + 1
        try:
            yield self._session
        finally:
            with self._changed:
                self._depth[thread] = outer
                if not outer:
                    del self._depth[thread]
                    self._changed.notify_all()

    def close(self, free: Callable[[], None] = _nothing) -> None:
        """Refuse further calls, wait for those of other threads, and give the memory back to the system.

        Args:
            free: lets go of what else calls needed.

        Raises:
            RunError: it is called inside a call of this thread, which would wait for itself.
        """
        if os.getpid() != self._process:  # a child keeps what it cannot close; see `forks`
            self.closed = True
            return
        with self._changed:
            if threading.get_ident() in self._depth:
                raise RunError(f"{self._folder}: close() was called inside a call of the same Session; call it after")
            self.closed = True
            self._changed.wait_for(lambda: not self._depth)
            self._session = None
        free()
        release_memory()


class Closable:
    """What holds an onnxruntime session, and may be closed; in a `with` block it is at the end of that."""

    _held: Held

    def _free(self) -> None:
        """Let go of what calls needed beside the model."""

    def close(self) -> None:
        """Wait for the calls of other threads, and give the memory back; calls that come later are refused.

        Raises:
            RunError: it is called inside a call of this session.
        """
        self._held.close(self._free)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._held.closed

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
