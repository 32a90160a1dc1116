"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any


def release_memory(load: Callable[[None], Any] = ctypes.CDLL) -> None:
    """Have the C library return what is free; nothing where it has no such call (glibc has).

    Args:
        load: opens the C library that this process runs on, when it is called with None.
    """
    try:
        trim = load(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another libc; no libc by that way (Windows)
        return
    trim(0)
