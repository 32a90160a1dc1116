"""A server of the test's process on a port of the loopback: uvicorn as it runs everywhere, in a thread."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from losparse_runtime.serving.app import create_app
from losparse_runtime.serving.models import ModelPlace
from losparse_runtime.serving.settings import ServeSettings

LONG = 20.0  # seconds; nothing here takes any: a test that reaches it has failed


@dataclass(frozen=True)
class Answer:
    """What a server answered; headers by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    port: int

    @property
    def url(self) -> str:
        """As tritonclient takes it: without a scheme."""
        return f"127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def send(self, raw: bytes, method: str = "GET") -> Answer:
        """Send bytes as they are, on a connection of their own, and read the first answer.

        Raises:
            http.client.HTTPException: there is none: the server closed the connection.
            TimeoutError: there is none yet.
        """
        with socket.create_connection(("127.0.0.1", self.port), LONG) as connection:
            connection.sendall(raw)
            with http.client.HTTPResponse(connection, method=method) as answer:
                answer.begin()
                headers = {key.lower(): value for key, value in answer.getheaders()}
                return Answer(answer.status, headers, answer.read())


@contextmanager
def running(folders: Mapping[str, Path], **settings: Any) -> Iterator[Server]:
    """Serve folders by name; settings are those of `ServeSettings`."""
    places = [ModelPlace(name, path) for name, path in folders.items()]
    app = create_app(places, ServeSettings(**{"threads": 1, **settings}))
    config = uvicorn.Config(app, port=0, loop="uvloop", http="httptools", ws="none", lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    try:
        until = time.monotonic() + LONG
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the server did not start"
            time.sleep(0.005)
        yield Server(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(LONG)
        assert not thread.is_alive(), "the server did not end"
