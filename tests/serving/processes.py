"""Servers in processes of their own, and a client that sees bytes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from losparse_runtime.serving.connections import Limits
from losparse_runtime.serving.settings import ServeSettings
from losparse_runtime.serving.workers.running import make_server

from .toy_server import make_app

LONG = 20.0  # seconds; nothing here takes any: a test that reaches it has failed


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = LONG) -> float:
    """Wait for a condition; returns after how many seconds it held."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + limit_s, f"waited {limit_s} s for {what}"
        time.sleep(0.005)
    return time.monotonic() - begin


@dataclass(frozen=True)
class Answer:
    """An answer; headers by their names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection; what it reads beyond an answer is kept for the next."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LONG)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def get(self, path: str) -> Answer:
        self.send(request(path))
        return self.answer()

    def answer(self) -> Answer:
        """Read one answer whole; those after 100 Continue too."""
        head = self._until(b"\r\n\r\n")
        status, *lines = head.decode("latin1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = b"" if status.split()[1] == "100" else self._body(headers)
        return Answer(int(status.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Wait for the end of the connection; anything else is an error."""
        try:
            return not self._rest and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self._exactly(int(headers.get("content-length", "0")))
        parts = []
        while length := int(self._until(b"\r\n"), 16):
            parts.append(self._exactly(length))
            self._exactly(2)
        self._exactly(2)
        return b"".join(parts)

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"closed after {self._rest!r}")
        self._rest += data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            self._more()
        found, _, self._rest = self._rest.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._more()
        found, self._rest = self._rest[:count], self._rest[count:]
        return found


def request(path: str, body: bytes | None = None, *lines: str) -> bytes:
    """Return the bytes of a GET, or of a POST where there is a body; `lines` are further headers."""
    head = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: toy", *lines]
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + (body or b"")


class Process:
    """A server that runs; its log goes to a file, a line of JSON a record."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def text(self) -> str:
        return self._log.read_text()

    def records(self, message: str) -> list[dict[str, Any]]:
        """Return what was logged under a message."""
        lines = [line for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]
        return [record for record in map(json.loads, lines) if record["message"].startswith(message)]

    def logged(self, message: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for records of a message."""
        wait_for(lambda: len(self.records(message)) >= count or self.process.poll() is not None, f"{message!r}")
        found = self.records(message)
        assert len(found) >= count, self.text
        return found

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(LONG)

    def client(self) -> Client:
        return Client(self.port)


@contextmanager
def toy(log: Path, fail: str | None = None, **settings: Any) -> Iterator[Process]:
    """Start the toy server; `settings` are those of `ServeSettings`."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    command = [sys.executable, str(Path(__file__).with_name("toy_server.py")), str(listener.fileno())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)} | ({} if fail is None else {"FAIL": fail})
    with log.open("wb") as stderr, listener:
        process = subprocess.Popen(
            [*command, json.dumps(settings)], stderr=stderr, env=environment, pass_fds=[listener.fileno()]
        )
    try:
        yield Process(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def serving(log: Path, **settings: Any) -> Iterator[Process]:
    """Start the toy server and wait until it serves."""
    with toy(log, **settings) as process:
        process.logged("serving")
        yield process


@dataclass(frozen=True)
class Thread:
    """A server in a thread of the test's process."""

    port: int

    def client(self) -> Client:
        return Client(self.port)


@contextmanager
def in_thread(limits: Limits, drain_s: float = 5) -> Iterator[Thread]:
    """Serve the toy application with the limits of connections."""
    server = make_server(make_app(), ServeSettings(drain_s=drain_s), limits)
    listener = socket.create_server(("127.0.0.1", 0))
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        thread = threading.Thread(target=runner.run, args=(server.serve([listener]),))
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive(), "the server")
            yield Thread(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(LONG)
            assert not thread.is_alive(), "the server did not end"
