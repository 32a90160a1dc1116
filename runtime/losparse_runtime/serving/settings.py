"""What may be set of a server, and which values are allowed."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ..contract.variant import DEFAULT_PROVIDER
from ..engine.options import FLAT, MEMORY, Provider
from ..errors import InputError

_MIB = 1024 * 1024
_AT_LEAST: dict[str, float] = {
    "workers": 1,
    "threads": 1,
    "max_batch": 1,
    "max_tokens_in_batch": 1,
    "max_wait_ms": 0,
    "queue": 1,
    "texts_in_request": 1,
    "body_bytes": 1024,
    "answer_bytes": 1024,
    "connections": 1,
    "reload_s": 0,
}
_ABOVE_0 = ("deadline_s", "drain_s", "hang_s", "head_s", "body_s", "idle_s")
_MOST_PORT = 65535


@dataclass(frozen=True)
class ServeSettings:
    """How to serve.

    Attributes:
        host: address to listen on; only this machine reaches the default.
        port: to listen on; 0 for any that is free.
        workers: processes; each holds the models by itself.
        threads: of one run of a model; None for the CPUs that a worker has, at most four. As many runs go on at once as
            the CPUs of a worker allow.
        providers: onnxruntime's execution providers, most wanted first; see `Session`.
        memory: what onnxruntime keeps between runs; see `Session`.
        max_batch: rows in one run.
        max_tokens_in_batch: tokens in one run, padding included; a longer row runs alone.
        max_wait_ms: milliseconds that a row may wait for others while no run is under way. 0 loses no time: rows that
            come during a run make up the next batch.
        queue: rows of one model that may wait; beyond them requests are refused with 503.
        mixed: join rows in a run also where their answers then depend on each other (int8 with one scale a run).
        texts_in_request: texts that one request may have.
        deadline_s: seconds after which a request without an answer is refused with 504.
        drain_s: seconds that requests under way have to finish once the server is told to stop.
        body_bytes: size of the largest body that is taken.
        answer_bytes: memory that one answer of tensors may take.
        connections: that may be open at once, in each worker.
        hang_s: seconds without a sign of life after which one of several workers is killed and started again.
        head_s: seconds within which the head of a request must be there.
        body_s: seconds within which its body must be there.
        idle_s: seconds that a connection may be idle between two requests.
        token: that a request must bring as `Authorization: Bearer TOKEN`; None for no such check. Whether the server is
            up (/v2/health) anybody may ask.
        verify: compare every file's SHA-256 with losparse.json while a folder is opened.
        verify_key: file of the public key that must have signed every folder; None for no such check.
        reload_s: seconds between two looks for a replaced folder; 0 to never look.
        json_logs: write logs as JSON, a line a record, instead of words.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int | None = None
    providers: tuple[Provider, ...] = (DEFAULT_PROVIDER,)
    memory: str = FLAT
    max_batch: int = 32
    max_tokens_in_batch: int = 4096
    max_wait_ms: float = 0
    queue: int = 512
    mixed: bool = False
    texts_in_request: int = 256
    deadline_s: float = 30
    drain_s: float = 20
    body_bytes: int = 8 * _MIB
    answer_bytes: int = 256 * _MIB
    connections: int = 1024
    hang_s: float = 30
    head_s: float = 10
    body_s: float = 30
    idle_s: float = 75
    token: str | None = None
    verify: bool = False
    verify_key: Path | None = None
    reload_s: float = 2
    json_logs: bool = False

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            InputError: one is out of its range.
        """
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and least <= value):
                raise InputError(f"{name} must be a number >= {least:g}, got {value!r}")
        for name in _ABOVE_0:
            value = getattr(self, name)
            if not (_is_number(value) and value > 0):
                raise InputError(f"{name} must be a number of seconds above 0, got {value!r}")
        if self.memory not in MEMORY:
            raise InputError(f"memory must be one of {', '.join(MEMORY)}, got {self.memory!r}")
        if not (_is_number(self.port) and 0 <= self.port <= _MOST_PORT):
            raise InputError(f"port must be in 0..{_MOST_PORT}, got {self.port!r}")
        if self.token is not None and (
            not self.token or not self.token.isascii() or self.token.split() != [self.token]
        ):
            raise InputError("token must be ASCII without spaces, and not empty; leave it out for no check")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
