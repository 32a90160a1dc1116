"""What the machine grants this process: instructions, CPUs, memory, shared memory, open files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ..engine.cgroups import cgroup_memory, cgroup_quota
from ..engine.cpus import CPU_AVX2, CPU_VARIABLE, UNKNOWN, available_cpus, cpu_class
from .findings import Finding

_CPUINFO, _MEMINFO, _SHM = Path("/proc/cpuinfo"), Path("/proc/meminfo"), Path("/dev/shm")
_INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx_vnni", "avx512_vnni"),
    "AMX int8": ("amx_int8",),
    "AMX bf16": ("amx_bf16",),
    "dot products": ("asimddp",),
    "int8 matrix products": ("i8mm",),
}
"""Instructions that decide how fast products are, by the kernel's names of the flags that say so."""
_LITTLE_MEMORY = 256 << 20
_LITTLE_SHM = 128 << 20
_FEW_FILES = 4096
_MB = 1_000_000


def look_at_cpu(cpuinfo: Path = _CPUINFO, environ: Mapping[str, str] = os.environ) -> Finding:
    """Tell the CPU's instructions and its class.

    Args:
        cpuinfo: the kernel's description of the CPUs.
        environ: where `CPU_VARIABLE` may name a class.
    """
    told = _first_cpu(cpuinfo)
    flags = set((told.get("flags") or told.get("Features", "")).split())
    there = [name for name, any_of in _INSTRUCTIONS.items() if flags & set(any_of)]
    kind, real = cpu_class(cpuinfo, environ=environ), cpu_class(cpuinfo, environ={})
    name = told.get("model name", "CPU")
    said = f"{name} ({', '.join(there) or 'the system does not say what it can'}), class {real}"
    facts = {"name": name, "instructions": there, "class": kind}
    if kind != real:
        said += f"; {CPU_VARIABLE}={kind} names another"
        return Finding("cpu", "warning", said, f"unset {CPU_VARIABLE} unless that is meant", facts)
    if real == CPU_AVX2:
        return Finding("cpu", "ok", f"{said}: without VNNI, so int8 takes weights of 7 bits", facts=facts)
    if real == UNKNOWN:
        way_out = f"set {CPU_VARIABLE} to its class if you know it"
        return Finding("cpu", "warning", f"{said}: the order of variants is a guess", way_out, facts)
    return Finding("cpu", "ok", said, facts=facts)


def look_at_threads(
    affinity: int | None = None, quota: float | None = None, present: int | None = None, omp: str | None = None
) -> Finding:
    """Tell how many threads a session starts, and why.

    Args:
        affinity: CPUs that the process may be scheduled on; default: what the system says.
        quota: CPUs that are granted; default: what the control groups say.
        present: CPUs of the machine; default: what the system says.
        omp: the value of OMP_NUM_THREADS; None where it is not set.
    """
    affinity = available_cpus(float("inf")) if affinity is None else affinity
    quota = cgroup_quota() if quota is None else quota
    present = os.cpu_count() or 1 if present is None else present
    threads = available_cpus(float("inf") if quota is None else quota, affinity)
    granted = "no quota" if quota is None else f"quota of {quota:g} CPUs"
    said = f"{threads} of a session by default: {affinity} of {present} CPUs by affinity, {granted}"
    facts = {"threads": threads, "affinity": affinity, "quota": quota, "cpus": present}
    if quota is not None and quota < 1:
        way_out = "grant one CPU at least"
        return Finding("threads", "warning", f"{said}; below 1 every run is stopped in between", way_out, facts)
    if omp is not None and omp != str(threads):
        said += f"; OMP_NUM_THREADS={omp} counts for numpy's libraries, not for onnxruntime (--threads does)"
    return Finding("threads", "ok", said, facts=facts)


def free_memory(meminfo: Path = _MEMINFO, granted: tuple[int, int] | None = None) -> int | None:
    """Return the memory that a new process may take, in bytes; None where the system does not say.

    Args:
        meminfo: the kernel's account of the machine's memory.
        granted: limit and use of the control groups, in bytes; None where they limit nothing.
    """
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    machine = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = [] if granted is None else [max(0, granted[0] - granted[1])]
    return min(machine + group, default=None)


def look_at_memory(meminfo: Path = _MEMINFO, grants: Callable[[], tuple[int, int] | None] = cgroup_memory) -> Finding:
    """Tell what memory is free, on the machine and within the limit of the control groups.

    Args:
        meminfo: see `free_memory`.
        grants: tells limit and use of the control groups.
    """
    granted = grants()
    free = free_memory(meminfo, granted)
    if free is None:
        return Finding("memory", "ok", "the system does not say what is free")
    limit = "no limit" if granted is None else f"limit {granted[0] // _MB:,} MB, {granted[1] // _MB:,} MB used"
    said, facts = f"{free // _MB:,} MB free, {limit}", {"free": free, "limit": granted[0] if granted else None}
    if free < _LITTLE_MEMORY:
        return Finding("memory", "warning", said, "grant more: a model needs 1.5 times its bytes and 150 MB", facts)
    return Finding("memory", "ok", said, facts=facts)


def look_at_shared_memory(place: Path = _SHM) -> Finding:
    """Tell the room in /dev/shm, which containers keep small.

    Args:
        place: where it is mounted.
    """
    if not place.is_dir():
        return Finding("shared memory", "ok", f"there is no {place}; a session needs none")
    size = shutil.disk_usage(place).total
    said, facts = f"{place} has {size // _MB:,} MB; a session needs none", {"bytes": size}
    if size < _LITTLE_SHM:
        way_out = "start the container with --shm-size 1g where Ray or Triton runs in it"
        return Finding("shared memory", "warning", f"{said}, Ray and Triton do", way_out, facts)
    return Finding("shared memory", "ok", said, facts=facts)


def look_at_open_files(limit: int | None = None) -> Finding:
    """Tell how many files and connections this process may have open.

    Args:
        limit: of them; default: what the system says.
    """
    if limit is None:
        limit = _open_files()
    if limit is None:
        return Finding("open files", "ok", "the system does not say how many")
    said, facts = f"{limit:,} at most", {"limit": limit}
    if limit < _FEW_FILES:
        said += ", and a server needs one a connection"
        return Finding("open files", "warning", said, f"ulimit -n {_FEW_FILES * 16}, before a server starts", facts)
    return Finding("open files", "ok", said, facts=facts)


def _open_files() -> int | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _first_cpu(cpuinfo: Path) -> dict[str, str]:
    """Return what Linux says of the first processor, by its words for it; nothing elsewhere."""
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    told: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        told.setdefault(name.strip(), value.strip())
    return told
