"""A client that costs little: requests made beforehand, on connections that stay open, without a library of HTTP.

What a library does for a request takes longer than a small model's run, and would be measured instead of the server.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
_HOST = "127.0.0.1"


@dataclass(slots=True)
class Reply:
    """A request, and what became of it.

    Attributes:
        number: of the request among those that were given.
        sent: seconds, as `time.perf_counter` gives them.
        done: when its answer was there whole, or its connection ended.
        status: of the answer; 0 where there was none.
        head: of the answer.
        body: of the answer.
    """

    number: int
    sent: float
    done: float = 0.0
    status: int = 0
    head: bytes = b""
    body: bytes = b""

    @property
    def seconds(self) -> float:
        """From the request to the end of its answer."""
        return self.done - self.sent

    @property
    def closes(self) -> bool:
        """Whether the server said that it closes the connection."""
        return b"connection: close" in self.head.lower()


def make_request(path: str, body: bytes, *lines: str) -> bytes:
    """Return the bytes of a POST."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    return ("\r\n".join([*head, f"Content-Length: {len(body)}"]) + "\r\n\r\n").encode() + body


class Connection(asyncio.Protocol):
    """One request at a time.

    Args:
        answered: is told of every reply whose answer is there.
        lost: is told when the connection ends, with the request that was under way, if one was.
    """

    def __init__(
        self, answered: Callable[[Connection, Reply], None], lost: Callable[[Connection, Reply | None], None]
    ) -> None:
        self._answered = answered
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._reply: Reply | None = None
        self._got = b""
        self._whole = 0  # bytes of the answer; 0 while its head is not there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # of sockets they all can be written to

    def ask(self, number: int, request: bytes) -> None:
        """Send a request."""
        assert self._transport is not None and self._reply is None
        self._reply = Reply(number, time.perf_counter())
        self._transport.write(request)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._whole:
            end = self._got.find(_END_OF_HEAD)
            if end < 0:
                return
            self._whole = end + len(_END_OF_HEAD) + _length(self._got[:end])
        if len(self._got) < self._whole:
            return
        reply, got, self._reply, self._got, self._whole = self._reply, self._got, None, b"", 0
        if reply is None:
            raise RuntimeError(f"the server answered what nobody asked: {got[:200]!r}")
        reply.done = time.perf_counter()
        reply.head, _, reply.body = got.partition(_END_OF_HEAD)
        reply.status = int(reply.head[9:12])
        self._answered(self, reply)

    def connection_lost(self, exc: Exception | None) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.done = time.perf_counter()
        self._lost(self, reply)


def _length(head: bytes) -> int:
    low = head.lower()
    at = low.find(_LENGTH)
    if at < 0:
        raise RuntimeError(f"an answer without its length: {head[:300]!r}")
    return int(low[at + len(_LENGTH) :].split(b"\r\n", 1)[0])


class ClosedLoop:
    """Clients that each send the next request when the last one was answered.

    Args:
        port: of the server.
        requests: sent in order, again and again.
        clients: connections.
        reconnect: open a connection again when it was lost; for servers that are meant to lose some.
        once: end when every request was sent once.
    """

    def __init__(
        self, port: int, requests: Sequence[bytes], clients: int, *, reconnect: bool = False, once: bool = False
    ) -> None:
        self.replies: list[Reply] = []
        self.refused = 0
        self._port, self._requests, self._clients, self._reconnect = port, requests, clients, reconnect
        numbers = range(len(requests))
        self._numbers: Iterator[int] = iter(numbers) if once else itertools.cycle(numbers)
        self._going = True
        self._left = clients
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> float:
        """Send for some seconds, and wait for the last answers; returns seconds from the first to the last."""
        connections = [await self._connect() for _ in range(self._clients)]
        begin = time.perf_counter()
        for each in connections:
            self._ask(each)
        timer = asyncio.get_running_loop().call_later(seconds, self.stop)
        await self._over.wait()
        timer.cancel()
        return (max(each.done for each in self.replies) if self.replies else time.perf_counter()) - begin

    def stop(self) -> None:
        """Send nothing more."""
        self._going = False

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._on_answer, self._on_lost), _HOST, self._port
        )
        return connection

    def _ask(self, connection: Connection) -> None:
        number = next(self._numbers, None)
        if number is None:
            self.stop()
            connection.close()
        else:
            connection.ask(number, self._requests[number])

    def _on_answer(self, connection: Connection, reply: Reply) -> None:
        self.replies.append(reply)
        if self._going and not reply.closes:
            self._ask(connection)
        else:
            connection.close()

    def _on_lost(self, connection: Connection, reply: Reply | None) -> None:
        if reply is not None:
            self.replies.append(reply)
        if self._going and self._reconnect:
            task = asyncio.ensure_future(self._again())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        self._end()

    async def _again(self) -> None:
        while self._going:
            try:
                self._ask(await self._connect())
                return
            except OSError:
                self.refused += 1
                await asyncio.sleep(0.01)
        self._end()

    def _end(self) -> None:
        self._left -= 1
        if not self._left:
            self._over.set()


class OpenLoop:
    """Requests at their times, whether or not earlier ones were answered: what a server meets outside.

    Args:
        port: of the server.
        requests: sent in order, again and again.
        connections: that are open; a request that finds none free waits here, and is counted as `held`.
    """

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        self.replies: list[Reply] = []
        self.sent = 0
        self.held = 0
        self._port, self._requests, self._count = port, requests, connections
        self._free: deque[Connection] = deque()
        self._due: deque[int] = deque()

    async def run(self, arrivals: Sequence[float], patience_s: float) -> None:
        """Send a request at each of the times, in seconds from now; then wait for answers, so long at most."""
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            _, connection = await loop.create_connection(
                lambda: Connection(self._on_answer, self._on_lost), _HOST, self._port
            )
            self._free.append(connection)
        begin, at = time.perf_counter(), 0
        while at < len(arrivals):
            now = time.perf_counter() - begin
            while at < len(arrivals) and arrivals[at] <= now:
                self._send(at % len(self._requests))
                at += 1
            await asyncio.sleep(max(0.0, min(0.002, arrivals[at] - now)) if at < len(arrivals) else 0)
        until = time.perf_counter() + patience_s
        while len(self.replies) < self.sent + len(self._due) and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        for each in self._free:
            each.close()

    @property
    def unanswered(self) -> int:
        """Requests without an answer, those whose connection ended among them."""
        return self.sent + len(self._due) - sum(1 for each in self.replies if each.status)

    def _send(self, number: int) -> None:
        if not self._free:
            self.held += 1
            self._due.append(number)
            return
        self.sent += 1
        self._free.popleft().ask(number, self._requests[number])

    def _on_answer(self, connection: Connection, reply: Reply) -> None:
        self.replies.append(reply)
        self._free.append(connection)
        if self._due:
            self._send(self._due.popleft())

    def _on_lost(self, connection: Connection, reply: Reply | None) -> None:
        if reply is not None:
            self.replies.append(reply)
        elif connection in self._free:
            self._free.remove(connection)
