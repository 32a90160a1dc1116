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

_HEAD = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 100"


class Stage(IntEnum):
    """How far the request of a connection is, for whoever has to end the connection instead of its process."""

    IDLE = 0  # nothing of a request came, and every answer is in the kernel's hands
    ASKED = 1  # bytes of a request may have been read; nothing of its answer was written
    ANSWERING = 2  # an answer has begun
    CLOSED = 3


class Wire(asyncio.Transport):
    """A transport that asks how it is to be closed.

    Args:
        transport: of the connection.
        on_answer: called before bytes of an answer are written.
        is_unread: whether the client may be sending something that nobody will read.
        at_once: give bytes to the kernel as they are written, head and body in one; else the event loop does a moment
            later.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        on_answer: Callable[[], None],
        is_unread: Callable[[], bool],
        *,
        at_once: bool = False,
    ) -> None:
        super().__init__()
        self._at_once = at_once
        self._held = b""
        if at_once:
            transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._on_answer = on_answer
        self._is_unread = is_unread
        self.lingers = False
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send bytes of an answer."""
        if data[: len(_INTERIM)] != _INTERIM:
            self._on_answer()
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, data))
        elif self._at_once and data[: len(_HEAD)] == _HEAD:
            self._held = bytes(data)
            asyncio.get_running_loop().call_soon(self._flush)  # a body that is not made yet is not waited for
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        """Close once everything is sent; see the module for how."""
        if self._closed:
            return
        self._closed = True
        self._flush()
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
        return self._transport.get_write_buffer_size() + len(self._held)

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
