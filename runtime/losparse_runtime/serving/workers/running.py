"""One process serves: from the opened models to the last answered request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ..connections import Connection, Limits, limited
from ..logs import fields
from ..settings import ServeSettings
from .listening import BACKLOG, url_of

MakeApp = Callable[[], FastAPI]

STOPPING = (signal.SIGTERM, signal.SIGINT)
BY_SIGNAL = 128
"""What shells add to the number of the signal that ended a process."""
_LOOK_S = 0.05
"""Seconds between two looks whether all is answered."""

logger = logging.getLogger("losparse_runtime.serving")


class Server(uvicorn.Server):
    """uvicorn's server; how it stops is our own.

    Args:
        config: of uvicorn.
        drain_s: seconds that requests under way have once it is told to stop.
    """

    def __init__(self, config: uvicorn.Config, drain_s: float) -> None:
        super().__init__(config)
        self.drain_s = drain_s
        self.on_started: Callable[[], None] = lambda: None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would end this process by the signal, not with 0."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        for listener in sockets or ():
            logger.info("serving", extra=fields(url=url_of(listener), pid=os.getpid()))
        self.on_started()

    def make_connection(self) -> Connection:
        """Return the protocol of one more connection; for those that another process accepted."""
        made = self.config.http_protocol_class(  # type: ignore[call-arg]  # uvicorn's own call is ignored too
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        assert isinstance(made, Connection), "`make_server` chose the class"
        return made

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, answer what is under way, and refuse what takes too long."""
        for server in self.servers:
            server.close()
        for connection in self._connections():
            connection.shutdown()
        until = time.monotonic() + self.drain_s
        while self._connections() and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        late = self._connections()
        for connection in late:
            connection.give_up(self.drain_s)
        if late:
            logger.warning("stopped with requests unanswered", extra=fields(connections=len(late), pid=os.getpid()))
            await asyncio.sleep(_LOOK_S)  # until the refusals are written

    def _connections(self) -> list[Connection]:
        found = list(self.server_state.connections)
        return [connection for connection in found if isinstance(connection, Connection)]


def make_server(app: FastAPI, settings: ServeSettings, limits: Limits | None = None) -> Server:
    """Return uvicorn's server for an application, with our connections.

    Args:
        app: answers the requests.
        settings: of the server.
        limits: of connections; None for those that the settings ask for.
    """
    config = uvicorn.Config(
        app,
        http=limited(Limits.of(settings) if limits is None else limits),
        interface="asgi3",
        lifespan="off",  # `_run` goes through it, so that an error in it arrives as it was raised
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
    )
    return Server(config, settings.drain_s)


def serve_here(make_app: MakeApp, settings: ServeSettings, listener: socket.socket) -> int:
    """Serve in this process until it is told to stop.

    Args:
        make_app: makes the application.
        settings: of the server.
        listener: a bound socket.

    Returns:
        0.

    Raises:
        LosparseRuntimeError: the application does not start.
    """
    with _ends_at_once():
        app = make_app()
        server = make_server(app, settings)
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(_run(server, app, listener))
    return 0


async def _run(server: Server, app: FastAPI, listener: socket.socket) -> None:
    async with app.router.lifespan_context(app):
        stop_by_signals(server, app)
        await server.serve([listener])
    logger.info("stopped", extra=fields(pid=os.getpid()))


def stop_by_signals(server: Server, app: FastAPI) -> None:
    """Let SIGTERM and SIGINT stop a server, at once when the second comes, and SIGHUP reload its models.

    An application that can reload has a function without arguments as its `state.reload`.
    """
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if server.should_exit:
            os._exit(BY_SIGNAL + number)
        logger.info("stopping: requests under way are answered", extra=fields(signal=number.name, pid=os.getpid()))
        server.should_exit = True

    for number in STOPPING:
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload_models, app)


def reload_models(app: FastAPI) -> None:
    """Ask an application to look at its folders now."""
    reload: Callable[[], None] | None = getattr(app.state, "reload", None)
    logger.info("asked to reload", extra=fields(pid=os.getpid()))
    if reload is not None:
        reload()


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Let SIGTERM end this process with 0 while it starts: nobody waits for an answer yet.

    Without it SIGTERM ends a process as well, but not the first of a container, which has no default actions.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
