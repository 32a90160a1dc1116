"""Servers in processes of their own: on which CPUs they run, when they are ready, what they cost, how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_END_S = 30.0
START_S = 120.0
ROOT = Path(__file__).resolve().parents[2]
LOSPARSE = (sys.executable, "-c", "import sys; from losparse.cli.main import main; sys.exit(main())")
"""The command `losparse` of this Python and this tree."""


def divided_cpus() -> tuple[list[int], list[int]]:
    """Return the CPUs for servers and those for the client: the last one where there are several, else the same."""
    granted = sorted(os.sched_getaffinity(0))
    return (granted[:-1], granted[-1:]) if len(granted) > 1 else (granted, granted)


@contextmanager
def on_cpus(cpus: Sequence[int]) -> Iterator[None]:
    """Let this thread, and processes that it starts meanwhile, run on some CPUs alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """Return a port of the loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still are there, theirs too."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            found = _stat(int(entry.name))
            if found is not None:
                parents.setdefault(int(found[1]), []).append(int(entry.name))
    listed, left = [], [pid]
    while left:
        below = parents.get(left.pop(), [])
        listed += below
        left += below
    return listed


def _stat(pid: int) -> list[str] | None:
    """Return what /proc says of a process from its state on; None where it is gone."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except (OSError, UnicodeDecodeError):
        return None


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        return [self.process.pid, *children(self.process.pid)]

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its processes."""
        found = [stat for pid in self.pids if (stat := _stat(pid)) is not None]
        return sum(int(stat[11]) + int(stat[12]) for stat in found) / _TICKS

    def memory_bytes(self) -> int:
        """Return the resident memory of all its processes, shared pages counted in each."""
        found = [stat for pid in self.pids if (stat := _stat(pid)) is not None]
        return sum(int(stat[21]) for stat in found) * _PAGE

    def pause(self) -> None:
        """Stop all its processes where they are, so that it costs nothing while others are measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def text(self) -> str:
        """What it wrote."""
        return self.log.read_text(errors="replace")

    def records(self, message: str) -> list[dict[str, Any]]:
        """Return what it logged as JSON under messages that begin so."""
        lines = [line for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]
        return [each for each in map(json.loads, lines) if each["message"].startswith(message)]


@contextmanager
def started(
    command: Sequence[str], port: int, log: Path, cpus: Sequence[int], environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start a server, wait until it takes connections, and end it and all that it started.

    Raises:
        RuntimeError: it ended, or takes none in time; says what it wrote.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export"), str(ROOT / "runtime")])
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as out, on_cpus(cpus):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**variables, **(environment or {})},
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        _wait(server)
        yield server
    finally:
        _end(server)


def _wait(server: Server) -> None:
    until = time.monotonic() + START_S
    while True:
        if server.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{server.process.args!r} does not serve; it wrote:\n{server.text[-3000:]}")
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
            return
        except OSError:
            time.sleep(0.05)


def _end(server: Server) -> None:
    """End it: by SIGTERM, then whatever of its session is still there by SIGKILL."""
    server.resume()
    if server.process.poll() is None:
        server.process.terminate()
    try:
        server.process.wait(_END_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    with suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)
