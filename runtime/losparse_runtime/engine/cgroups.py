"""What the control groups of Linux grant this process: CPUs and memory, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60
"""Bytes from which on a limit of version 1 is none: the kernel writes the largest number of pages there."""


def cgroup_quota(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> float | None:
    """CPUs the control groups grant this process, in CPUs; None where nothing limits it.

    Args:
        root: where the cgroup file systems are mounted.
        membership: the kernel's list of this process's groups, one `id:controllers:path` a line.

    Returns:
        The smallest quota of the process's group and all groups above it, version 2 and version 1.
    """
    quotas: list[float] = []
    for version, group in _groups("cpu", root, membership):
        quotas += _quotas_v2(group) if version == 2 else _quotas_v1(group)
    return min(quotas, default=None)


def cgroup_memory(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> tuple[int, int] | None:
    """Memory the control groups grant this process, and what is taken of it, in bytes; None where nothing limits it.

    Args:
        root: see `cgroup_quota`, as for the other.
        membership: see there.

    Returns:
        Limit and use of the group that has the least left, of the process's group and all groups above it. What the
        kernel keeps of files counts as used, though it would give that up.
    """
    found: list[tuple[int, int]] = []
    names = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}
    for version, group in _groups("memory", root, membership):
        limit, used = (_words(group / name) for name in names[version])
        if len(limit) == len(used) == 1 and limit[0] != "max" and int(limit[0]) < _NO_LIMIT:
            found.append((int(limit[0]), int(used[0])))
    return min(found, key=lambda each: each[0] - each[1], default=None)


def _groups(controller: str, root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of the process's groups that have a controller, and of every group above them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield from ((2, group) for group in _upwards(root, path))
        elif controller in controllers.split(","):
            yield from ((1, group) for group in _upwards(root / controller, path))


def _upwards(mount: Path, path: str) -> list[Path]:
    """The group at `path` and every group above it. In a container the path may not exist below the mount."""
    relative = path.strip("/")
    parts = relative.split("/") if relative else []
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quotas_v2(group: Path) -> list[float]:
    """The quota of `cpu.max`, whose line reads `<quota or "max"> <period>`, both in microseconds."""
    fields = _words(group / "cpu.max")
    return [int(fields[0]) / int(fields[1])] if len(fields) == 2 and fields[0] != "max" else []


def _quotas_v1(group: Path) -> list[float]:
    """The quota of `cpu.cfs_quota_us` over `cpu.cfs_period_us`; a quota of -1 is no limit."""
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    return [int(quota[0]) / int(period[0])] if len(quota) == len(period) == 1 and int(quota[0]) > 0 else []


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
