"""What may be set of a model in Triton's repository, and which values are allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from ..contract.variant import DEFAULT_PROVIDER
from ..errors import InputError

Processor = Literal["cpu", "cuda"]
PROVIDERS: dict[Processor, str] = {"cpu": DEFAULT_PROVIDER, "cuda": "CUDAExecutionProvider"}
"""onnxruntime's name of what Triton runs a model on."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOST_VERSION = 2**63 - 1  # Triton reads names of version folders as int64
_AT_LEAST: dict[str, float] = {
    "version": 1,
    "max_batch": 1,
    "max_wait_ms": 0,
    "queue": 1,
    "instances": 1,
    "threads": 1,
}
_WHOLE = ("version", "max_batch", "queue", "instances", "threads")


@dataclass(frozen=True)
class TritonSettings:
    """How Triton is to serve a model.

    Attributes:
        name: of the model; None for the name of the exported folder.
        version: number of the version; None for the one behind the newest.
        variant: of the exported folder; None for the best of those that are right on every CPU.
        provider: what it runs on: "cpu" or "cuda".
        max_batch: texts in one run.
        max_wait_ms: milliseconds that a request may wait for others while nothing runs. 0 loses no time: requests that
            come during a run make up the next batch.
        queue: requests that may wait; beyond them they are refused.
        deadline_s: seconds that a request may wait before it is refused.
        instances: runs at a time, each of a session of its own; on "cuda", on every GPU.
        threads: of one run on a CPU; None for every core that the machine has.
        mixed: join requests also where answers then depend on each other (int8 with one scale a run).
        copy: copy model files also where a hard link would do.
        overwrite: replace the version where it is there.
    """

    name: str | None = None
    version: int | None = None
    variant: str | None = None
    provider: Processor = "cpu"
    max_batch: int = 32
    max_wait_ms: float = 0
    queue: int = 512
    deadline_s: float = 30
    instances: int = 1
    threads: int | None = None
    mixed: bool = False
    copy: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InputError: one is out of its range.
        """
        if self.name is not None and not is_name(self.name):
            raise InputError(
                "name must be letters, digits, '_', '-' and '.', 128 at most, the first a letter or a digit, "
                f"got {self.name!r}"
            )
        if self.provider not in PROVIDERS:
            raise InputError(f"provider must be one of {', '.join(PROVIDERS)}, got {self.provider!r}")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is None and name in ("version", "threads"):
                continue
            if not (_is_number(value) and least <= value) or (name in _WHOLE and not isinstance(value, int)):
                kind = "whole number" if name in _WHOLE else "number"
                raise InputError(f"{name} must be a {kind} >= {least:g}, got {value!r}")
        if not (_is_number(self.deadline_s) and self.deadline_s > 0):
            raise InputError(f"deadline_s must be a number of seconds above 0, got {self.deadline_s!r}")
        if self.version is not None and self.version > _MOST_VERSION:
            raise InputError(f"version must be at most {_MOST_VERSION}, got {self.version}")


def is_name(text: str) -> bool:
    """Whether Triton, a file system and a URL all take a text as the name of a model."""
    return _NAME.fullmatch(text) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
