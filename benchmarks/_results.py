"""Results files that several runs share: rows are added one by one, under a lock, and never run twice."""

from __future__ import annotations

import fcntl
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from losparse import environment as losparse_machine

KINDS = {"amx": "AMX", "vnni": "VNNI", "avx2": "AVX2", "neon": "NEON"}
"""Kinds of machines, by the best of the instructions they have for products; the first that is there."""


@contextmanager
def locked(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the contents of a results file; what is changed in it is written back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        yield data
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(data, indent=1) + "\n")
        temporary.replace(path)


def has_row(data: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Tell whether a row with these values is there."""
    return any(all(row.get(name) == value for name, value in key.items()) for row in data.get("rows", []))


def kind_of(name: str) -> str:
    """Return the kind of a machine by its name, which lists its instructions as `machine` does; "other" for none.

    Results files keep one entry a kind: what is fast, and what int8 gains, depends on the instructions.
    """
    told = name.rpartition("(")[2].rstrip(")").split(", ")
    return next((kind for kind, instruction in KINDS.items() if instruction in told), "other")


def versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    names = ("torch", "transformers", "onnxruntime", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def machine() -> str:
    """Return the processor's name and its vector instructions."""
    return str(losparse_machine.machine()["cpu"])
