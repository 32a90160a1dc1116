"""What the supervisor and a worker say to each other: frames of eight bytes, and descriptors of connections."""

from __future__ import annotations

import socket
import struct
from enum import Enum
from typing import NamedTuple

_FORM = struct.Struct("<cxxxI")


class Kind(Enum):
    """What a frame says."""

    CONNECTION = b"C"  # to the worker: serve this connection, in this seat
    STOP = b"S"  # to the worker: answer what is under way, and end; to the supervisor: I do so
    RELOAD = b"L"  # to the worker: look at the folders now
    READY = b"R"  # to the supervisor: the models are open
    ENDED = b"E"  # to the supervisor: this seat's connection is closed


class Frame(NamedTuple):
    """A frame.

    Attributes:
        kind: what it says.
        seat: of which connection; 0 where it is about none.
        descriptor: of the connection; None where none came with it.
    """

    kind: Kind
    seat: int = 0
    descriptor: int | None = None


class Channel:
    """One end of a pair of sockets; neither end ever waits.

    A frame is one write of a few bytes, which the kernel takes whole or not at all, so no frame is ever in pieces.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return both ends."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Return the descriptor, for selectors and event loops."""
        return self._end.fileno()

    def send(self, frame: Frame) -> bool:
        """Send a frame; returns whether the other end can take it now."""
        data = _FORM.pack(frame.kind.value, frame.seat)
        try:
            if frame.descriptor is None:
                self._end.send(data)
            else:
                socket.send_fds(self._end, [data], [frame.descriptor])
        except OSError:  # full, too many descriptors under way, or nobody is there any more
            return False
        return True

    def receive(self) -> Frame | None:
        """Return the next frame; None where there is none now.

        Raises:
            EOFError: the other end is closed.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(self._end, _FORM.size, 1)
        except BlockingIOError:
            return None
        except OSError as error:  # reset: the other process ended with frames unread
            raise EOFError from error
        if not data:
            raise EOFError
        kind, seat = _FORM.unpack(data)
        return Frame(Kind(kind), seat, descriptors[0] if descriptors else None)

    def close(self) -> None:
        """Close this end."""
        self._end.close()
