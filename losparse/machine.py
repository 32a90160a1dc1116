"""Where a number was taken: the machine and the versions, as reports record them."""

from __future__ import annotations

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


def _cpu_name() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
