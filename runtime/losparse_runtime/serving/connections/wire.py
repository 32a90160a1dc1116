"""A connection's transport as uvicorn's protocol sees it: it tells how far an answer is, and closes so that it is read.

A socket that is closed with bytes of the client unread is reset, and the client may lose the answer that it was about
to read. So where a request is not read to its end, this side ends its own direction, and reads what comes to nothing
until the client has closed, or `Limits.linger_s` are over.
"""

from __future__ import annotations

import array
import asyncio
import socket
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any

_INTERIM = b"HTTP/1.1 100"


class Stage(IntEnum):
    """How far the request of a connection is, for whoever has to end the connection instead of its process."""

    IDLE = 0  # nothing of a request came, and every answer is in the kernel's hands
    ASKED = 1  # bytes of a request may have been read; nothing of its answer was written
    ANSWERING = 2  # an answer has begun
    CLOSED = 3
    ANSWERED = 4  # as IDLE, once the kernel has all that was written
    BEHIND = 5  # as ASKED, once the kernel has all that was written


class Wire(asyncio.Transport):
    """A transport that asks how it is to be closed.

    Args:
        transport: of the connection.
        is_unread: whether the client may be sending something that nobody will read.
        on_answer: called before bytes of an answer are given to the kernel, with their number. Bytes are then given at
            once: by `finish` when the answer is whole, else when the event loop comes round. None where nobody asks:
            the event loop's own way is a little shorter.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        is_unread: Callable[[], bool],
        on_answer: Callable[[int, Stage], None] | None = None,
    ) -> None:
        super().__init__()
        self._transport = transport
        self._on_answer = on_answer
        self._is_unread = is_unread
        self._held: list[bytes | bytearray | memoryview[Any]] = []
        self.lingers = False
        self._closed = False
        if on_answer is not None:
            transport.set_write_buffer_limits(high=0)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send bytes of an answer."""
        if self._on_answer is None:
            self._transport.write(data)
        elif data[: len(_INTERIM)] == _INTERIM:
            self._on_answer(len(data), Stage.ASKED)
            self._transport.write(data)
        else:
            if not self._held:
                asyncio.get_running_loop().call_soon(self.flush)  # what comes later is not waited for
            self._held.append(data)

    def flush(self, stage: Stage = Stage.ANSWERING) -> None:
        """Give the kernel what was written; `stage` is how far the request is with it."""
        if self._held and self._on_answer is not None:
            held, self._held = self._held, []
            self._on_answer(sum(map(len, held)), stage)
            self._transport.writelines(held)

    def close(self) -> None:
        """Close once everything is sent; see the module for how."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        if self._is_unread() and not self._transport.is_closing():
            self.lingers = True
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close now; what is not sent is lost."""
        self._closed = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._closed or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Let the client wait."""
        if not self.lingers:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the socket."""
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._held))

    def has_unread(self) -> bool:
        """Whether bytes of the client are in the kernel."""
        found: socket.socket | None = self._transport.get_extra_info("socket")
        return found is not None and has_unread(found.fileno())


def has_unread(descriptor: int) -> bool:
    """Whether bytes of the other end of a socket wait in the kernel; False where the system does not say."""
    if sys.platform == "win32":
        return False
    import fcntl
    import termios

    count = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
    except OSError:
        return False
    return count[0] > 0
