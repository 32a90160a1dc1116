"""A worker: serves connections that its supervisor accepted, in a process that was forked from it.

It is forked, not spawned: the application comes as a function, which cannot be sent; modules are shared, and a worker
that died is back sooner. Forking is safe here because the supervisor has one thread, opens no models and does not
import onnxruntime, whose threads a fork would lose.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import cast

from fastapi import FastAPI

from ...errors import LosparseRuntimeError
from ..connections import Connection, Limits, Stage
from ..logs import fields
from ..settings import ServeSettings
from .channel import Channel, Frame, Kind
from .running import MakeApp, Server, make_server, reload_models
from .table import Table

DUMP = signal.SIGUSR2 if hasattr(signal, "SIGUSR2") else None
"""Tells a worker to write where its threads are."""
FAILED = 2
"""Exit code of a worker that could not start, and says why in the table."""
BEATS = 4
"""Heartbeats within the time after which a worker counts as hung."""

logger = logging.getLogger("losparse_runtime.serving")
_room = memoryview(bytearray(256 * 1024))


class Receiver(asyncio.BufferedProtocol):
    """Lets a connection note that bytes may come before they are read.

    Otherwise a worker that is killed between the two would have read a request that nobody knows of. All connections
    read into one place: what is read is taken before the event loop goes on.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._connection.connection_made(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait until the client reads."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._connection.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        self._connection.about_to_read()
        return _room

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self._connection.data_received(bytes(_room[:nbytes]))


class Worker:
    """What a worker does beside answering.

    Args:
        index: which worker it is.
        channel: to the supervisor.
        table: shared with it.
        settings: of the server.
        make_app: makes the application.
    """

    def __init__(self, index: int, channel: Channel, table: Table, settings: ServeSettings, make_app: MakeApp) -> None:
        self._index = index
        self._channel = channel
        self._table = table
        self._settings = settings
        self._make_app = make_app
        self._adopting: set[asyncio.Task[None]] = set()

    def run(self) -> int:
        """Serve until the supervisor says to stop, or is gone; returns the exit code."""
        if DUMP is not None:
            faulthandler.register(DUMP, all_threads=True)
        try:
            app = self._make_app()
            limits = Limits.of(self._settings, self._settings.connections * self._settings.workers)
            server = make_server(app, self._settings, limits)
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(self._serve(server, app))
        except LosparseRuntimeError as error:
            self._table.write_text(self._index, str(error))
            return FAILED
        return 0

    async def _serve(self, server: Server, app: FastAPI) -> None:
        loop = asyncio.get_running_loop()

        def begin() -> None:
            loop.add_signal_handler(signal.SIGTERM, self._stop, server)
            loop.add_reader(self._channel.fileno(), self._listen, server, app)
            self._beat(loop)
            self._channel.send(Frame(Kind.READY))

        async with app.router.lifespan_context(app):
            server.on_started = begin
            await server.serve([])

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._table.beat(self._index)
        loop.call_later(self._settings.hang_s / BEATS, self._beat, loop)

    def _stop(self, server: Server) -> None:
        if not server.should_exit:
            server.should_exit = True
            self._channel.send(Frame(Kind.STOP))  # no more connections, please

    def _listen(self, server: Server, app: FastAPI) -> None:
        """Do what the supervisor says."""
        try:
            while (frame := self._channel.receive()) is not None:
                if frame.kind is Kind.CONNECTION and frame.descriptor is None:
                    self._table.note(frame.seat, Stage.CLOSED)  # it was lost on the way: this process has too many
                    self._channel.send(Frame(Kind.ENDED, frame.seat))
                elif frame.kind is Kind.CONNECTION and frame.descriptor is not None:
                    task = asyncio.create_task(self._adopt(server, frame.descriptor, frame.seat))
                    self._adopting.add(task)
                    task.add_done_callback(self._adopting.discard)
                elif frame.kind is Kind.STOP:
                    self._stop(server)
                elif frame.kind is Kind.RELOAD:
                    reload_models(app)
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            if not server.should_exit:
                logger.error("the supervisor is gone: stopping", extra=fields(worker=self._index, pid=os.getpid()))
                server.should_exit = True

    async def _adopt(self, server: Server, descriptor: int, seat: int) -> None:
        """Serve a connection."""
        given = socket.socket(fileno=descriptor)
        connection = server.make_connection()

        def note(stage: Stage) -> None:
            self._table.note(seat, stage)
            if stage is Stage.CLOSED:
                with suppress(OSError):  # it may be closed already; the supervisor's descriptor holds it open
                    given.shutdown(socket.SHUT_RDWR)
                self._channel.send(Frame(Kind.ENDED, seat))

        connection.note = note
        connection.wrote = partial(self._table.wrote, seat)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Receiver(connection), given)
        except OSError:  # the client was gone before
            given.close()
            note(Stage.CLOSED)
            return
        if server.should_exit:
            connection.shutdown()


def become_worker(worker: Worker, unblock: Callable[[], object]) -> int:
    """Be a worker in a process that was just forked; returns its exit code.

    Signals of a terminal go to the supervisor, which says what is to be done.

    Args:
        worker: to be.
        unblock: lets signals through again, which were held back during the fork.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))  # until it serves
    unblock()
    try:
        return worker.run()
    except Exception:
        logger.exception("a worker failed in an unexpected way", extra=fields(pid=os.getpid()))
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
