"""What is said of, and given back to, the machine."""

from __future__ import annotations

import platform

import pytest

from losparse.environment import machine, release_memory

UNNAMED = platform.processor() or platform.machine()
"""What a processor is called that does not say its model."""


def test_memory_is_given_back_where_the_c_library_can():
    asked = []

    class Glibc:
        def malloc_trim(self, pad: int) -> int:
            asked.append(pad)
            return 1

    release_memory(lambda name: Glibc())
    assert asked == [0], "nothing is held back"


@pytest.mark.parametrize("without", [AttributeError, OSError, TypeError], ids=["musl", "no file", "windows"])
def test_other_c_libraries_are_left_alone(without):
    def load(name):
        raise without

    release_memory(load)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 bmi1", "AMD EPYC (AVX2)"),
        ("model name : AMD EPYC\nflags : avx2 avx512f avx512_vnni avx_vnni", "AMD EPYC (AVX2, AVX-512, VNNI)"),
        ("Features\t: fp asimd asimddp i8mm", f"{UNNAMED} (NEON, dot products, int8 matrix products)"),
        ("model name : old\nflags : fpu sse", "old"),
        ("model name : one\nflags : avx2\n\nmodel name : two\nflags : avx512f", "one (AVX2)"),
        ("", UNNAMED),
    ],
    ids=["no VNNI", "VNNI", "arm", "neither", "the first of two", "empty"],
)
def test_processors_that_hide_their_model_are_told_apart(tmp_path, lines, expected):
    """Cached times are found by this name: an AVX2 machine's must not be taken for those of one with VNNI."""
    (tmp_path / "cpuinfo").write_text(lines)
    assert machine(tmp_path / "cpuinfo")["cpu"] == expected
