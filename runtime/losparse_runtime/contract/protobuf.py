"""Fields of a protobuf message, read off the bytes without any library.

What is read here decides what may be opened, so nothing is passed over that another reader would take for a field: a
tag of more than 32 bits, of which some readers drop what is above, is refused.

References:
    The wire format of protocol buffers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TAG_BITS = 32
_MOST_FIELDS = 5_000_000
"""Of a file; graphs of 50,000 nodes have a million. Reading these takes seconds, so no file keeps a reader busy."""


class Messages:
    """The messages of a file.

    Args:
        data: the file.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left = _MOST_FIELDS

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, first byte and end of every field of a message that has a length of its own.

        Args:
            start: first byte of the message.
            end: the byte behind it.

        Raises:
            ValueError: it is no message, is cut short, or the file has more fields than any graph.
            IndexError: it ends in the middle of a number.
        """
        data = self._data
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {_MOST_FIELDS:,} fields")
            tag, start = _varint(data, start)
            kind = tag & 7
            if not tag >> 3 or tag >> _TAG_BITS:
                raise ValueError(f"tag {tag}")
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
