"""Sessions and forked processes: a child has the memory of its parent, and none of onnxruntime's threads.

A session that was opened before a fork waits in the child for threads that are not there: for ever in a run, and for
ever or until a crash when it is closed at the child's exit. So a child does not run it (`require_own`), and does not
close it either: what it holds is memory that the child shares with its parent until it ends.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from pathlib import Path
from typing import Any

from ..errors import RunError

_open: weakref.WeakSet[Any] = weakref.WeakSet()


def remember(session: Any) -> int:
    """Keep an onnxruntime session from being closed in children; returns the process it belongs to."""
    _open.add(session)
    return os.getpid()


def require_own(folder: Path, process: int) -> None:
    """Refuse to use a session in a process that was forked from the one that opened it.

    Args:
        folder: of the session, for the message.
        process: as `remember` returned it.

    Raises:
        RunError: it is another process.
    """
    if os.getpid() != process:
        raise RunError(
            f"{folder}: was opened in process {process}, and this one was forked without onnxruntime's threads; "
            "open a Session in each process, after the fork, or start processes by spawn"
        )


def _never_close() -> None:
    for session in list(_open):
        # One reference that nobody gives back: so its destructor, which would wait for the threads, is never called.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_never_close)
