"""The connections of all workers, each with a descriptor of its own: they outlive the worker that serves them."""

from __future__ import annotations

import array
import selectors
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus

from ..connections import Refused, Stage, has_unread
from .table import Table

_LINGER_S = 2.0
_MOST_LINGERING = 256
_READ = 65536
_ACKED_AT = 120
"""Where Linux's `struct tcp_info` has `tcpi_bytes_acked`."""


class Seats:
    """The supervisor's side of every connection.

    Args:
        count: how many there may be.
        table: where workers say how far their requests are.
        selector: of the supervisor; connections that are refused are read to nothing in it until they are closed.
    """

    def __init__(self, count: int, table: Table, selector: selectors.BaseSelector) -> None:
        self._table = table
        self._selector = selector
        self._free = list(range(count - 1, -1, -1))
        self._sockets: dict[int, socket.socket] = {}
        self._lingering: deque[tuple[float, socket.socket]] = deque()
        self.waiting: deque[int] = deque()

    def take(self, connection: socket.socket) -> int | None:
        """Give a connection a seat; None where all are taken."""
        if not self._free:
            return None
        seat = self._free.pop()
        self._table.open(seat)
        self._sockets[seat] = connection
        return seat

    def descriptor(self, seat: int) -> int:
        """Return the descriptor to give to a worker."""
        return self._sockets[seat].fileno()

    def stage(self, seat: int) -> Stage:
        """Return how far the seat's request is, as its worker said."""
        return self._table.stage(seat)

    def real_stage(self, seat: int) -> Stage:
        """Return how far the request of a worker that is no more really was.

        A worker may end between two steps: it said what it was about to write, and the kernel knows what it got. A
        client that is awake with its answer before the worker goes on can be the one who kills it.

        Returns:
            IDLE, ASKED, ANSWERING or CLOSED.
        """
        stage = self._table.stage(seat)
        if stage in (Stage.IDLE, Stage.ASKED, Stage.CLOSED):
            return stage
        got = bytes_given(self._sockets[seat])
        before, after = self._table.written(seat)
        if got == after and stage is not Stage.ANSWERING:
            return Stage.IDLE if stage is Stage.ANSWERED else Stage.ASKED
        return Stage.ASKED if got == before else Stage.ANSWERING

    def close(self, seat: int) -> None:
        """Close a connection and free its seat; a seat that is free already stays so."""
        connection = self._sockets.pop(seat, None)
        if connection is not None:
            _end(connection)
            self._free.append(seat)

    def refuse(self, seat: int, text: str, now: float) -> None:
        """Answer 503 and close.

        Args:
            seat: of the connection.
            text: why, in a line.
            now: seconds of the supervisor's clock.
        """
        connection = self._sockets.pop(seat)
        self._free.append(seat)
        self.turn_away(connection, text, now)

    def refuse_waiting(self, text: str, now: float) -> None:
        """Refuse what waits for a worker; a client that asked nothing is left without a word."""
        while self.waiting:
            seat = self.waiting.popleft()
            if has_unread(self.descriptor(seat)):
                self.refuse(seat, text, now)
            else:
                self.close(seat)

    def turn_away(self, connection: socket.socket, text: str, now: float) -> None:
        """Answer 503 and close a connection that has no seat."""
        try:
            connection.send(bytes(Refused(HTTPStatus.SERVICE_UNAVAILABLE, text, retry_after_s=1)))
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone, or reads nothing
            _end(connection)
            return
        if len(self._lingering) >= _MOST_LINGERING:
            _end(self._lingering.popleft()[1], self._selector)
        # A close with bytes unread would reset the connection, and the client might not see its answer.
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._drop(connection))
        self._lingering.append((now + _LINGER_S, connection))

    def tick(self, now: float) -> None:
        """Close connections that were refused some time ago."""
        while self._lingering and (self._lingering[0][0] <= now or self._lingering[0][1].fileno() < 0):
            _end(self._lingering.popleft()[1], self._selector)

    @property
    def lingers(self) -> bool:
        """Whether clients may still be reading a refusal."""
        return any(connection.fileno() >= 0 for _, connection in self._lingering)

    def everything(self) -> Iterable[socket.socket]:
        """Return all sockets, for a child that is not to have them."""
        yield from self._sockets.values()
        yield from (connection for _, connection in self._lingering)

    def _drop(self, connection: socket.socket) -> None:
        try:
            if connection.recv(_READ):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        _end(connection, self._selector)


def _end(connection: socket.socket, selector: selectors.BaseSelector | None = None) -> None:
    """Close for the client too, whoever else has a descriptor."""
    if connection.fileno() < 0:
        return
    if selector is not None:
        selector.unregister(connection)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def bytes_given(connection: socket.socket) -> int | None:
    """Return how many bytes the kernel was ever given to send on a connection that was accepted.

    Those that the client has acknowledged, and those that it has not. None where the system does not say.
    """
    if sys.platform != "linux":
        return None
    import fcntl
    import termios

    try:
        facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
        waiting = array.array("i", [0])
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, waiting)
    except OSError:
        return None
    if len(facts) < _ACKED_AT + 8:
        return None
    acknowledged: int = struct.unpack_from("=Q", facts, _ACKED_AT)[0]
    return acknowledged + waiting[0]
