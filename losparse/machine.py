"""The machine: its name and the versions on it, as reports record them, and its memory."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
from pathlib import Path

from . import __version__

_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, losparse and these packages, as far as they are installed."""
    found = {"python": platform.python_version(), "losparse": __version__}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Return the processor's name, the CPUs this process may use, and the system."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": _cpu_name(), "cpus": usable, "system": f"{platform.system()} {platform.machine()}"}


def peak_memory_bytes() -> int | None:
    """Return the largest resident set this process has had, in bytes; None where the system does not say."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines() if _STATUS.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def release_memory() -> None:
    """Give memory that was freed back to the system; nothing where the C library has no such call (glibc has).

    A pass over a model leaves holes of all sizes between what is still held, and the C library keeps them: one-shot
    LoSparse on MiniLM holds 190 MB at most, and had taken 260 MB.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another libc; no libc by that way (Windows)
        return
    trim(0)


def _cpu_name() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
