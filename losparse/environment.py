"""The machine: its name, what it computes with and the versions on it, as reports record them, its memory and cache."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import __version__

_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")

# Instructions that decide how fast products are, fp32 and int8, by the kernel's names for them; x86-64, then Arm.
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "VNNI",
    "avx512_vnni": "VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dot products",
    "i8mm": "int8 matrix products",
    "sve": "SVE",
}


def cache_folder() -> Path:
    """Return where losparse keeps what it fetches and times: $LOSPARSE_CACHE, else losparse/ in the user's cache."""
    chosen = os.environ.get("LOSPARSE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "losparse"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, losparse and these packages, as far as they are installed."""
    found = {"python": platform.python_version(), "losparse": __version__}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(cpuinfo: Path = _CPUINFO) -> dict[str, str | int]:
    """Return the processor, the CPUs this process may use, and the system.

    Virtual machines hide a processor's model ("AMD EPYC"), so its vector instructions are told too: how fast a form is,
    and what int8 gains, depends on them.

    Args:
        cpuinfo: where Linux describes its processors.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = _first_processor(cpuinfo)
    instructions = _instructions(told)
    cpu = (told.get("model name") or platform.processor() or platform.machine()) + (
        f" ({', '.join(instructions)})" if instructions else ""
    )
    return {"cpu": cpu, "cpus": usable, "system": f"{platform.system()} {platform.machine()}"}


def timing_report(times: Mapping[str, Any]) -> dict[str, Any]:
    """Return times of ONNX folders beside what they are of: the machine, and the versions that ran them.

    Args:
        times: as `Benchmark.to_dict` of the runtime returns them.
    """
    ran = versions("onnxruntime", "onnxruntime-gpu", "numpy")
    return {"format": 1, "machine": machine(), "versions": ran, **times}


def peak_memory_bytes() -> int | None:
    """Return the largest resident set this process has had, in bytes; None where the system does not say."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines() if _STATUS.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def release_memory(load: Callable[[None], Any] = ctypes.CDLL) -> None:
    """Give memory that was freed back to the system; nothing where the C library has no such call (glibc has).

    A pass over a model leaves holes of all sizes between what is still held, and the C library keeps them: one-shot
    LoSparse on MiniLM holds 190 MB at most, and had taken 260 MB.

    Args:
        load: opens the C library that this process runs on, when it is called with None.
    """
    try:
        trim = load(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another libc; no libc by that way (Windows)
        return
    trim(0)


def _instructions(told: Mapping[str, str]) -> tuple[str, ...]:
    """Return the vector instructions that count, each once; none where the system does not say."""
    flags = set((told.get("flags") or told.get("Features", "")).split())
    return tuple(dict.fromkeys(name for flag, name in _INSTRUCTIONS.items() if flag in flags))


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    """Return what Linux says of the first processor, by its words for it; nothing elsewhere."""
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    told: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        told.setdefault(name.strip(), value.strip())
    return told
