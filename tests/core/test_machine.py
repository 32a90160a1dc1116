"""What is said of, and given back to, the machine."""

from __future__ import annotations

import ctypes

import pytest

from losparse.machine import release_memory


def test_memory_is_given_back_where_the_c_library_can(monkeypatch):
    asked = []

    class Glibc:
        def malloc_trim(self, pad: int) -> int:
            asked.append(pad)
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Glibc())
    release_memory()
    assert asked == [0], "nothing is held back"


@pytest.mark.parametrize("without", [AttributeError, OSError, TypeError], ids=["musl", "no file", "windows"])
def test_other_c_libraries_are_left_alone(monkeypatch, without):
    def load(name):
        raise without

    monkeypatch.setattr(ctypes, "CDLL", load)
    release_memory()
