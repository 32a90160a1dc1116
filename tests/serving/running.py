"""A server of the test's process on a port of the loopback: set up as `losparse serve` sets it up, in a thread."""

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

from losparse_runtime.serving.app import create_app
from losparse_runtime.serving.models import ModelPlace
from losparse_runtime.serving.settings import ServeSettings
from losparse_runtime.serving.workers.listening import bind
from losparse_runtime.serving.workers.running import make_server

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
    chosen = ServeSettings(**{"threads": 1, "port": 0, **settings})
    app = create_app(places, chosen)
    server = make_server(app, chosen)
    with bind(chosen.host, chosen.port) as listener:

        async def serve() -> None:
            async with app.router.lifespan_context(app):
                await server.serve([listener])

        def run() -> None:
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            until = time.monotonic() + LONG
            while not server.started:
                assert thread.is_alive() and time.monotonic() < until, "the server did not start"
                time.sleep(0.005)
            yield Server(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(LONG)
            assert not thread.is_alive(), "the server did not end"
