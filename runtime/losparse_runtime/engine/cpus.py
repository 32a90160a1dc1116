"""How many CPUs this process may use, which is not how many the machine has, and what their int8 products are like.

onnxruntime sizes its thread pool from the host; inside a container that oversubscribes the share it was given.
"""

from __future__ import annotations

import os
from pathlib import Path


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


def int8_overflows(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether int8 products with weights of 8 bits overflow here; False where the system does not say.

    onnxruntime's kernels for x86-64 without VNNI add pairs of u8 x s8 products in 16 bits, which saturate.
    """
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return bool(flags) and not {"avx_vnni", "avx512_vnni"} & set(flags)


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
