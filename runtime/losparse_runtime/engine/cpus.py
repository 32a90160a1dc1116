"""How many CPUs this process may use, which is not how many the machine has, and of what class they are.

onnxruntime sizes its thread pool from the host; inside a container that oversubscribes the share it was given.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

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


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs the control groups grant this process, in CPUs; None where nothing limits it.

    Args:
        root: where the cgroup file systems are mounted.
        membership: the kernel's list of this process's groups, one `id:controllers:path` a line.

    Returns:
        The smallest quota of the process's group and all groups above it, version 2 and version 1.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            quotas += _quotas_v2(root, path)
        elif "cpu" in controllers.split(","):
            quotas += _quotas_v1(root / "cpu", path)
    return min(quotas, default=None)


def _groups(mount: Path, path: str) -> list[Path]:
    """The group at `path` and every group above it. In a container the path may not exist below the mount."""
    relative = path.strip("/")
    parts = relative.split("/") if relative else []
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quotas_v2(root: Path, path: str) -> list[float]:
    """Quotas from `cpu.max`, whose line reads `<quota or "max"> <period>`, both in microseconds."""
    quotas = []
    for group in _groups(root, path):
        fields = _words(group / "cpu.max")
        if len(fields) == 2 and fields[0] != "max":
            quotas.append(int(fields[0]) / int(fields[1]))
    return quotas


def _quotas_v1(mount: Path, path: str) -> list[float]:
    """Quotas from `cpu.cfs_quota_us` over `cpu.cfs_period_us`; a quota of -1 is no limit."""
    quotas = []
    for group in _groups(mount, path):
        quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
        if len(quota) == len(period) == 1 and int(quota[0]) > 0:
            quotas.append(int(quota[0]) / int(period[0]))
    return quotas


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
