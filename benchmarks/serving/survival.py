"""What a server must survive; each part starts one, does it harm, and returns a line of what was seen.

A part raises `Failed` where the server did not hold.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from losparse_runtime import Session

from .answers import Expected
from .client import ClosedLoop, OpenLoop, Reply
from .contenders import read_ours, serve_command, tolerance_of
from .figures import percentile_ms
from .memory import Watched, watched
from .processes import Server, divided_cpus, free_port, started

PATH = "/v1/classify"
CLIENTS = 16
BACK_S = 5.0
"""Seconds within which a killed worker must be back."""
_QUEUE = 64
_CONNECTIONS = 512


class Failed(Exception):  # noqa: N818 - says what it is
    """The server did not survive."""


@dataclass(frozen=True)
class Subject:
    """What is served, and what is right.

    Attributes:
        session: that has the folder open.
        expected: texts, and what it says of them.
        requests: one a text.
        seconds: of a load.
        logs: folder for what servers write.
    """

    session: Session
    expected: Expected
    requests: Sequence[bytes]
    seconds: float
    logs: Path

    @property
    def tolerance(self) -> float:
        """Of a score."""
        return tolerance_of(self.session, shared=False)

    @contextmanager
    def served(self, *options: str, folder: Path | None = None) -> Iterator[Server]:
        """Serve the folder, or another one, by the command."""
        port = free_port()
        command = serve_command(self.session, port, 1, "--json-logs", *options)
        if folder is not None:
            command[command.index("serve") + 1] = f"model={folder}"
        with started(command, port, self.logs / f"{port}.log", divided_cpus()[0]) as server:
            yield server

    def check(self, replies: Sequence[Reply]) -> None:
        """Refuse a wrong answer among those that say 200.

        Raises:
            Failed: there is one.
        """
        wrong, _ = self.expected.wrong([each for each in replies if each.status == 200], read_ours, self.tolerance)
        require(not wrong, f"{len(wrong)} wrong answers: {'; '.join(wrong[:3])}")

    def check_alive(self, server: Server) -> None:
        """Ask every text once, and require right answers to all."""
        loop = ClosedLoop(server.port, self.requests, CLIENTS, once=True)
        uvloop.run(loop.run(60))
        require(len(loop.replies) == len(self.requests), "not every text was answered afterwards")
        require(all(each.status == 200 for each in loop.replies), f"afterwards: {statuses(loop.replies)}")
        self.check(loop.replies)


def require(holds: bool, otherwise: str) -> None:
    """Refuse what does not hold.

    Raises:
        Failed: it does not.
    """
    if not holds:
        raise Failed(otherwise)


def statuses(replies: Sequence[Reply]) -> str:
    """Return how many answers of each status there are; 0 for those without."""
    counts: dict[int, int] = {}
    for each in replies:
        counts[each.status] = counts.get(each.status, 0) + 1
    return ", ".join(f"{count} of {status}" for status, count in sorted(counts.items()))


def overload(subject: Subject) -> str:
    """Twice as many requests as it can answer: each is answered rightly or refused with 503 and Retry-After."""
    with subject.served("--queue", str(_QUEUE)) as server:
        closed = ClosedLoop(server.port, subject.requests, _QUEUE)
        took = uvloop.run(closed.run(max(1.0, subject.seconds / 10)))
        require(all(each.status == 200 for each in closed.replies), f"at capacity: {statuses(closed.replies)}")
        subject.check(closed.replies)
        capacity = len(closed.replies) / took
        numbers, at = random.Random(0), 0.0
        arrivals: list[float] = []
        while (at := at + numbers.expovariate(2 * capacity)) < subject.seconds:
            arrivals.append(at)
        loop = OpenLoop(server.port, subject.requests, _CONNECTIONS)
        with watched(server) as memory:
            uvloop.run(loop.run(arrivals, patience_s=60))
        require(not loop.unanswered, f"{loop.unanswered} of {len(arrivals)} requests have no answer")
        right = [each for each in loop.replies if each.status == 200]
        busy = [each for each in loop.replies if each.status == 503]
        require(len(right) + len(busy) == len(arrivals), f"other answers than 200 and 503: {statuses(loop.replies)}")
        require(all(b"retry-after:" in each.head.lower() for each in busy), "a 503 without Retry-After")
        require(bool(busy), "nothing was refused: this was no overload")
        subject.check(right)
        grown = require_flat(memory)
        subject.check_alive(server)
    times = percentile_ms([each.seconds for each in right], 99)
    return (
        f"{len(arrivals)} requests in {subject.seconds:g} s at twice {capacity:.0f}/s ({loop.held} held back by the "
        f"client): {len(right)} right, p99 {times:.0f} ms, {len(busy)} refused, 0 lost, 0 wrong; {grown}"
    )


def require_flat(memory: Watched) -> str:
    """Require that memory does not grow; returns the words.

    Raises:
        Failed: it does.
    """
    require(memory.flat, f"memory grows: {memory.words}")
    return memory.words


def killed_worker(subject: Subject) -> str:
    """Kill -9 of one of two workers: only what it had under way fails."""
    with subject.served("--workers", "2") as server:
        before = ready_workers(server)
        require(len(before) == 2, f"there are {len(before)} workers, not 2")
        loop = ClosedLoop(server.port, subject.requests, CLIENTS, reconnect=True)

        async def load() -> tuple[float, float]:
            running = asyncio.ensure_future(loop.run(600))
            await asyncio.sleep(subject.seconds / 4)
            os.kill(before[0], signal.SIGKILL)
            killed = time.perf_counter()
            while len(ready_workers(server)) < 3 and time.perf_counter() < killed + 4 * BACK_S:
                await asyncio.sleep(0.02)
            back = time.perf_counter() - killed
            await asyncio.sleep(subject.seconds / 4)
            loop.stop()
            await running
            return killed, back

        killed, back = uvloop.run(load())
        failed = [each for each in loop.replies if each.status != 200]
        require(back <= BACK_S, f"the worker was back after {back:.1f} s, allowed are {BACK_S:g}")
        require(all(each.sent <= killed <= each.done for each in failed), "a request failed that was not under way")
        require(len(failed) < CLIENTS, f"{len(failed)} requests failed, of {CLIENTS} under way in two workers")
        require(not loop.refused, f"{loop.refused} connections were refused")
        told = [each for each in failed if each.status >= 500 and b'"error"' in each.body]
        require(len(told) == len(failed), f"some failed without an error: {statuses(failed)}")
        subject.check(loop.replies)
        subject.check_alive(server)
    return (
        f"{len(loop.replies)} requests, {len(failed)} of {CLIENTS} under way failed ({statuses(failed)}), no other; "
        f"the worker is back after {back:.2f} s"
    )


def ready_workers(server: Server) -> list[int]:
    """Return the processes that the supervisor has called ready, in order."""
    return [record["pid"] for record in server.records("worker is ready")]


def stopped(subject: Subject) -> str:
    """SIGTERM under load: what was asked is answered, and the process ends with 0."""
    with subject.served() as server:
        loop = ClosedLoop(server.port, subject.requests, CLIENTS)

        async def load() -> float:
            running = asyncio.ensure_future(loop.run(600))
            await asyncio.sleep(subject.seconds / 4)
            told = time.perf_counter()
            server.process.terminate()
            await running
            return told

        told = uvloop.run(load())
        code = server.process.wait(60)
        require(code == 0, f"it ended with {code}, not 0")
        lost = [each for each in loop.replies if each.status != 200]
        require(not lost, f"of {len(loop.replies)} requests {statuses(lost)}")
        subject.check(loop.replies)
        took = max(each.done for each in loop.replies) - told
    return f"{len(loop.replies)} requests, all answered, the last {took:.2f} s after the signal; exit code 0"


def replaced(subject: Subject, other: Path) -> str:
    """A folder is replaced under load, by a link, a rename and a broken one: no request notices but by answers."""
    root = subject.logs / "models"
    root.mkdir()
    for name, source in (("first", subject.session.folder), ("second", other), ("third", subject.session.folder)):
        shutil.copytree(source, root / name)
    shutil.copytree(other, root / "broken")
    for model in (root / "broken").glob("*.onnx"):
        model.write_bytes(model.read_bytes()[:-100])
    current = root / "current"
    current.symlink_to("first")
    opened = partial(Session, threads=1, variant=subject.session.variant)
    with opened(root / "first") as one, opened(root / "second") as two:
        fingerprints = [each.metadata.fingerprint[:12] for each in (one, two)]
        results = {session: [session.classify([text])[0] for text in subject.expected.texts] for session in (one, two)}
        tolerance = max(tolerance_of(each, shared=False) for each in (one, two))
        either = [Expected(subject.expected.texts, tuple(each)) for each in results.values()]
    with subject.served("--reload-every", "0.1", folder=current) as server:
        loop = ClosedLoop(server.port, subject.requests, CLIENTS)
        marks = uvloop.run(_replace(subject, server, loop, root))
        require(all(each.status == 200 for each in loop.replies), f"answers: {statuses(loop.replies)}")
        for begin, end, allowed in ((0.0, marks[0], [0]), (marks[0], marks[1], [0, 1]), (marks[1], 1e99, [0, 1])):
            part = [each for each in loop.replies if begin <= each.sent < end]
            for each in part:
                found = [either[place].wrong([each], read_ours, tolerance)[0] for place in allowed]
                require(not all(found), f"after a replacement: {found[-1]}")
        require("refused" in server.text, "a broken replacement was not refused in the log")
    return (
        f"{len(loop.replies)} requests over a link renamed, a folder renamed and a broken folder (refused), versions "
        f"{' and '.join(fingerprints)}: all answered, as one of the two does"
    )


async def _replace(subject: Subject, server: Server, loop: ClosedLoop, root: Path) -> list[float]:
    """Replace the folder three times under load; returns when the first and second replacement began."""
    running = asyncio.ensure_future(loop.run(600))
    pause = subject.seconds / 8
    marks = []
    try:
        await asyncio.sleep(pause)
        marks.append(time.perf_counter())
        (root / "next").symlink_to("second")
        os.replace(root / "next", root / "current")
        await _seen(server, 1)
        await asyncio.sleep(pause)
        marks.append(time.perf_counter())
        os.rename(root / "second", root / "gone")  # where the link leads, another folder takes the name
        os.rename(root / "third", root / "second")
        await _seen(server, 2)
        await asyncio.sleep(pause)
        (root / "next").symlink_to("broken")
        os.replace(root / "next", root / "current")
        until = time.perf_counter() + 30
        while "refused" not in server.text and time.perf_counter() < until:
            await asyncio.sleep(0.05)
        await asyncio.sleep(pause)
    finally:
        loop.stop()
        await running
    return marks


async def _seen(server: Server, count: int) -> None:
    """Wait until the log says that so many replacements serve."""
    until = time.perf_counter() + 60
    while sum("serves now" in each["message"] for each in server.records("model ")) < count:
        require(time.perf_counter() < until, f"replacement {count} was not opened within 60 s")
        await asyncio.sleep(0.05)
