"""Fields of a protobuf message, read off the bytes without any library.

References:
    The wire format of protocol buffers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def message_fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of every field of a message that has a length of its own.

    Args:
        data: holds the message.
        start: its first byte.
        end: the byte behind it.

    Raises:
        ValueError: it is no message, or is cut short.
        IndexError: it ends in the middle of a number.
    """
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            _, start = _varint(data, start)
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, start = _varint(data, start)
            yield tag >> 3, start, start + size
            start += size
        else:
            raise ValueError(f"wire type {kind}")
    if start > end:
        raise ValueError("a field ends behind its message")


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """Return a number of the wire format and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
