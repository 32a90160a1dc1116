"""How many CPUs this process may use, which is not how many the machine has, and of what class they are.

onnxruntime sizes its thread pool from the host; inside a container that oversubscribes the share it was given.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from .cgroups import cgroup_quota

CPU_AVX2 = "cpu-avx2"
CPU_AVX512_VNNI = "cpu-avx512-vnni"
CPU_AMX = "cpu-amx"
ARM = "arm"
UNKNOWN = "unknown"
CPU_CLASSES = (CPU_AVX2, CPU_AVX512_VNNI, CPU_AMX, ARM, UNKNOWN)
"""Classes of CPU, by the instructions that int8 products take there; see `cpu_class`."""
CPU_VARIABLE = "LOSPARSE_CPU"
"""Environment variable that names the class of CPU to go by, whatever CPU this is."""
_VNNI = {"avx_vnni", "avx512_vnni"}
_CPUINFO = Path("/proc/cpuinfo")


def available_cpus(quota: float | None = None, affinity: int | None = None) -> int:
    """CPUs this process may run on: its affinity mask, cut to the whole CPUs of a quota; at least 1.

    Args:
        quota: CPUs that are granted, infinite without a limit; default: what the control groups say.
        affinity: CPUs that the process may be scheduled on; default: what the system says.
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if quota is None:
        quota = cgroup_quota()
    # Rounded down: a thread beyond the quota makes the kernel stop all of them for the rest of each period.
    return affinity if quota is None else max(1, int(min(affinity, quota)))


def cpu_class(cpuinfo: Path = _CPUINFO, machine: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Tell the class of this CPU: the one place that does, for exports, sessions and recorded times.

    "cpu-amx" has AMX for int8, "cpu-avx512-vnni" has VNNI (AVX-512's or AVX's), "cpu-avx2" is any other x86-64, "arm"
    any Arm of 64 bits. "unknown" is where the system does not say, as on Windows and on Intel Macs.

    Args:
        cpuinfo: the kernel's description of the CPUs.
        machine: the kind of processor; default: what Python says.
        environ: where `CPU_VARIABLE` may name the class to go by instead.

    Returns:
        One of `CPU_CLASSES`.

    Raises:
        InputError: the variable names no class.
    """
    named = environ.get(CPU_VARIABLE)
    if named:
        if named not in CPU_CLASSES:
            raise InputError(f"${CPU_VARIABLE} must be one of {', '.join(CPU_CLASSES)}, or not set, got {named!r}")
        return named
    flags = _flags(cpuinfo)
    if flags:
        if not flags & _VNNI:
            return CPU_AVX2
        return CPU_AMX if "amx_int8" in flags else CPU_AVX512_VNNI
    kind = (platform.machine() if machine is None else machine).lower()
    return ARM if kind in ("aarch64", "arm64") else UNKNOWN


def int8_overflows(cpuinfo: Path = _CPUINFO) -> bool:
    """Tell whether int8 products with weights of 8 bits overflow here; False where the system does not say.

    onnxruntime's kernels for x86-64 without VNNI add pairs of u8 x s8 products in 16 bits, which saturate. This is of
    the CPU as it is: no variable changes what would be computed.
    """
    flags = _flags(cpuinfo)
    return bool(flags) and not flags & _VNNI


def _flags(cpuinfo: Path) -> set[str]:
    """Return what an x86-64 can do, as Linux calls it; nothing where the system does not say, or it is another."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
