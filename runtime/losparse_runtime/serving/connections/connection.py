"""One connection: uvicorn's protocol, with limits of time and size, and with what it lets pass refused.

A request that is no good is answered with a status 4xx and `{"error": "one line"}`, and the connection is closed after
it. Requests that came before it on the same connection are answered first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from enum import Enum
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from .limits import Limits
from .reading import Part, Reading
from .refusals import Refused
from .waits import Watch
from .wire import Stage, Wire

_SETTLE_S = 0.02
"""Seconds between two looks whether the kernel has taken an answer that it did not take at once."""
_quiet = logging.Logger("quiet", logging.CRITICAL + 1)


class _Wait(Enum):
    """What a connection waits for."""

    ANSWER = 0
    IDLE = 1
    LAST = 2
    HEAD = 3
    BODY = 4
    WRITE = 5
    LINGER = 6


class Connection(Reading):
    """A connection of a client.

    Attributes:
        note: is told how far the connection's request is; None where nobody asks.
        wrote: is told before it how many bytes of an answer the kernel is given.
        stage: what it was told last.
    """

    transport: Wire

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.note: Callable[[Stage], None] | None = None
        self.wrote: Callable[[int], None] | None = None
        self.stage = Stage.IDLE
        self._watch = Watch(self.loop, self._late)
        self._running: RequestResponseCycle | None = None
        self._refusal: Refused | None = None
        self._draining = False
        self._last: RequestResponseCycle | None = None
        self._seconds: dict[_Wait, float | None] = {
            _Wait.ANSWER: None,
            _Wait.IDLE: self.limits.idle_s,
            _Wait.LAST: self.limits.last_s,
            _Wait.HEAD: self.limits.head_s,
            _Wait.BODY: self.limits.body_s,
            _Wait.WRITE: self.limits.write_s,
            _Wait.LINGER: self.limits.linger_s,
        }

    # What the transport says

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a connection, unless there are too many."""
        on_answer = None if self.note is None else self._on_answer
        super().connection_made(Wire(transport, self._is_unread, on_answer))
        if len(self.connections) > self.limits.connections:
            text = f"{self.limits.connections} connections are open already; try again later"
            self._refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, text, retry_after_s=1))
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of the connection that nobody waits for its answer."""
        self._watch.stop()
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        self._tell(Stage.CLOSED)

    def about_to_read(self) -> None:
        """Say before bytes are read that there may be a request: the process may end with them in its hands."""
        if self.stage is Stage.IDLE:
            self._tell(Stage.ASKED)
        elif self.stage is Stage.ANSWERED:
            self._tell(Stage.BEHIND)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, of several, or of none."""
        if self._refusal is not None or self.transport.lingers:
            return
        self.about_to_read()
        try:
            self._feed(data)
        except Refused as refusal:
            self._refuse(refusal)
        self._expect()

    # Answers, and the end

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        super().on_headers_complete()
        if self._draining:
            self._turn_off()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request, with a refusal that had to wait, or with waiting."""
        self.server_state.total_requests += 1
        if self.note is not None:
            self.transport.flush(self._after())
        if not self.transport.is_closing():
            if self._refusal is None or self.pipeline:
                self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            elif self._refusal is not None:
                self._say(self._refusal)
        self._expect()
        if self.note is not None:
            self._settle()

    def shutdown(self) -> None:
        """Begin to stop: the next answer is the last, and who is idle has `Limits.last_s`."""
        self._draining = True
        self._turn_off()
        self._expect()

    def give_up(self, after_s: float) -> None:
        """Stop now.

        Args:
            after_s: seconds that the request had to be answered, for the message.
        """
        for cycle in self._unanswered():
            cycle.logger = _quiet  # its task is cancelled, which uvicorn would show as an error of the application
            cycle.disconnected = True
            cycle.message_event.set()
        if self._is_answering() and not self._has_begun() and not self.transport.is_closing():
            text = f"the server stops, and this request was not answered within {after_s:g} s; send it again"
            self._say(Refused(HTTPStatus.SERVICE_UNAVAILABLE, text, retry_after_s=1))
        else:
            self.transport.abort()

    def _turn_off(self) -> None:
        """Let the newest request be the last; one before it, which was to be the last, is not."""
        before, self._last = self._last, None
        if before is not None and before is not self.cycle and not before.response_started:
            before.keep_alive = True
        cycle = self.cycle
        if cycle is not None and cycle.keep_alive and not cycle.response_started:
            cycle.keep_alive = False
            self._last = cycle

    def _refuse(self, refusal: Refused) -> None:
        """Read nothing any more; say why as soon as requests before it are answered."""
        self._refusal = refusal
        broken = self.cycle if self._part is Part.BODY else None
        if broken is not None:
            broken.disconnected = True
            broken.message_event.set()
            for queued in [each for each in self.pipeline if each[0] is broken]:
                self.pipeline.remove(queued)
        running = self._running
        if running is None or running is broken or running.response_complete:
            self._say(refusal, begun=broken is not None and broken.response_started)

    def _say(self, refusal: Refused, *, begun: bool = False) -> None:
        if self.transport.is_closing():
            return
        if not begun:
            self.transport.write(bytes(refusal))
        self.transport.close()

    def _is_unread(self) -> bool:
        return self._refusal is not None or self._part is not Part.NONE

    # Time

    def pause_writing(self) -> None:
        """Wait until the client reads."""
        super().pause_writing()
        self._expect()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._expect()

    def _expect(self) -> None:
        """Set the time for what comes next."""
        if self.stage is Stage.CLOSED:
            return
        if self.transport.is_closing():
            what = _Wait.LINGER if self.transport.lingers else _Wait.WRITE
        elif self.flow.write_paused:
            what = _Wait.WRITE
        elif self._part is not Part.NONE:
            what = _Wait.HEAD if self._part is Part.HEAD else _Wait.BODY
        elif self._is_answering():
            what = _Wait.ANSWER
        else:
            what = _Wait.LAST if self._draining else _Wait.IDLE
        self._watch.wait((what, self._messages), self._seconds[what])

    def _late(self, waited: Hashable) -> None:
        """End what took too long."""
        assert isinstance(waited, tuple), "`_expect` waits for pairs"
        what: _Wait = waited[0]
        seconds = self._seconds[what]
        if what in (_Wait.WRITE, _Wait.LINGER) or self.transport.get_write_buffer_size():
            self.transport.abort()
        elif what in (_Wait.IDLE, _Wait.LAST):
            if self.transport.has_unread():  # a request that came this moment is answered
                self._watch.again(waited, _SETTLE_S)
            else:
                self.transport.close()
        elif self.flow.read_paused:  # by this side: the client has to wait
            self._watch.again(waited, seconds)
        else:
            part = "head" if what is _Wait.HEAD else "body"
            text = f"the {part} of a request must be there within {seconds:g} s; send it faster, or less of it"
            self._refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, text))
            self._expect()

    # How far it is

    def _unanswered(self) -> list[RequestResponseCycle]:
        cycles = [self._running, *(queued for queued, _ in self.pipeline)]
        return [cycle for cycle in cycles if cycle is not None and not cycle.response_complete]

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _has_begun(self) -> bool:
        return self._running is not None and self._running.response_started and not self._running.response_complete

    def _on_answer(self, count: int, stage: Stage) -> None:
        if self.wrote is not None:
            self.wrote(count)
        self._tell(stage)

    def _after(self) -> Stage:
        """Return how far the connection is with the last bytes of an answer."""
        if self._part is Part.BODY and self.cycle.response_complete:
            return Stage.ANSWERING  # the rest of its own request is still to come
        return Stage.BEHIND if self.pipeline or self._part is not Part.NONE else Stage.ANSWERED

    def _tell(self, stage: Stage) -> None:
        if stage is not self.stage:
            self.stage = stage
            if self.note is not None:
                self.note(stage)

    def _is_settled(self) -> bool:
        """Whether what was answered is in the kernel's hands, its request is read, and no other answer has begun."""
        if self._has_begun() or (self._part is Part.BODY and self.cycle.response_complete):
            return False
        return not self.transport.is_closing() and not self.transport.get_write_buffer_size()

    def _settle(self) -> None:
        """Say that an answer is over, once it is."""
        if (
            self.stage not in (Stage.ANSWERING, Stage.ANSWERED, Stage.BEHIND)
            or self.transport.is_closing()
            or self._has_begun()
        ):
            return
        if self._is_settled():
            self._tell(Stage.ASKED if self._is_answering() or self._part is not Part.NONE else Stage.IDLE)
        else:
            self.loop.call_later(_SETTLE_S, self._settle)


def limited(chosen: Limits) -> type[Connection]:
    """Return the class of connections with limits."""

    class Limited(Connection):
        limits = chosen

    return Limited
