"""How many CPUs a process may use."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from losparse_runtime import InputError
from losparse_runtime.engine import cgroups, cpus


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_version_2_takes_the_smallest_quota_on_the_way_up(tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/pods/one\n")
    write(tmp_path / "fs/pods/one/cpu.max", "max 100000\n")
    write(tmp_path / "fs/pods/cpu.max", "250000 100000\n")
    write(tmp_path / "fs/cpu.max", "400000 100000\n")
    assert cgroups.cgroup_quota(tmp_path / "fs", tmp_path / "self") == 2.5


def test_version_2_in_a_container_reads_the_mount_itself(tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/outside/of/this/mount\n")
    write(tmp_path / "fs/cpu.max", "150000 100000\n")
    assert cgroups.cgroup_quota(tmp_path / "fs", tmp_path / "self") == 1.5


def test_version_1_divides_quota_by_period(tmp_path: Path) -> None:
    write(tmp_path / "self", "5:memory:/x\n3:cpu,cpuacct:/x\n0::/\n")
    write(tmp_path / "fs/cpu/x/cpu.cfs_quota_us", "300000\n")
    write(tmp_path / "fs/cpu/x/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "fs/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "fs/cpu/cpu.cfs_period_us", "100000\n")
    assert cgroups.cgroup_quota(tmp_path / "fs", tmp_path / "self") == 3.0


def test_no_limit_is_none(tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/\n")
    write(tmp_path / "fs/cpu.max", "max 100000\n")
    assert cgroups.cgroup_quota(tmp_path / "fs", tmp_path / "self") is None
    assert cgroups.cgroup_quota(tmp_path / "fs", tmp_path / "no such file") is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 6), (0.5, 1), (2.9, 2), (64.0, 6)])
def test_affinity_and_quota_both_count(quota: float | None, expected: int) -> None:
    assert cpus.available_cpus(math.inf if quota is None else quota, affinity=6) == expected


@pytest.mark.parametrize(
    ("text", "overflows"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 bmi2\n", True),
        ("flags : fpu ssse3\n", True),
        ("flags : avx2 avx512f avx512_vnni\n", False),
        ("flags : avx2 avx_vnni\n", False),
        ("Features : fp asimd\n", False),
        ("", False),
    ],
    ids=["AVX2", "older", "AVX-512 VNNI", "AVX VNNI", "Arm", "not said"],
)
def test_where_products_with_weights_of_eight_bits_overflow(tmp_path: Path, text: str, overflows: bool) -> None:
    write(tmp_path / "cpuinfo", text)
    assert cpus.int8_overflows(tmp_path / "cpuinfo") is overflows
    assert cpus.int8_overflows(tmp_path / "no such file") is False


@pytest.mark.parametrize(
    ("text", "machine", "expected"),
    [
        ("flags : fpu avx2 bmi2\n", "x86_64", "cpu-avx2"),
        ("flags : avx2 avx512f avx512_vnni\n", "x86_64", "cpu-avx512-vnni"),
        ("flags : avx2 avx_vnni\n", "x86_64", "cpu-avx512-vnni"),
        ("flags : avx512_vnni amx_tile amx_int8\n", "x86_64", "cpu-amx"),
        ("flags : avx2 amx_tile amx_int8\n", "x86_64", "cpu-avx2"),  # as a virtual machine may show it
        ("Features : fp asimd\n", "aarch64", "arm"),
        ("", "arm64", "arm"),
        ("", "AMD64", "unknown"),
    ],
)
def test_the_class_of_a_cpu(tmp_path: Path, text: str, machine: str, expected: str) -> None:
    write(tmp_path / "cpuinfo", text)
    assert cpus.cpu_class(tmp_path / "cpuinfo", machine, {}) == expected
    assert cpus.cpu_class(tmp_path / "cpuinfo", machine, {"LOSPARSE_CPU": ""}) == expected
    for named in cpus.CPU_CLASSES:
        assert cpus.cpu_class(tmp_path / "cpuinfo", machine, {"LOSPARSE_CPU": named}) == named
    wide = expected != "cpu-avx2"
    assert cpus.int8_overflows(tmp_path / "cpuinfo") is not wide


def test_a_class_that_there_is_not() -> None:
    with pytest.raises(InputError, match=r"^\$LOSPARSE_CPU must be one of cpu-avx2, .*, or not set, got 'amx'$"):
        cpus.cpu_class(environ={"LOSPARSE_CPU": "amx"})


def test_memory_of_the_group_with_the_least_left(tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/pods/one\n")
    for group, limit, used in (("pods/one", "1000", "100"), ("pods", "900", "600"), (".", "max", "5000")):
        write(tmp_path / "fs" / group / "memory.max", f"{limit}\n")
        write(tmp_path / "fs" / group / "memory.current", f"{used}\n")
    assert cgroups.cgroup_memory(tmp_path / "fs", tmp_path / "self") == (900, 600)


@pytest.mark.parametrize(("limit", "found"), [("5000", (5000, 70)), ("9223372036854771712", None)])
def test_memory_of_version_1(tmp_path: Path, limit: str, found: tuple[int, int] | None) -> None:
    write(tmp_path / "self", "5:memory:/x\n3:cpu:/x\n")
    write(tmp_path / "fs/memory/x/memory.limit_in_bytes", f"{limit}\n")
    write(tmp_path / "fs/memory/x/memory.usage_in_bytes", "70\n")
    assert cgroups.cgroup_memory(tmp_path / "fs", tmp_path / "self") == found
    assert cgroups.cgroup_memory(tmp_path / "fs", tmp_path / "no such file") is None
