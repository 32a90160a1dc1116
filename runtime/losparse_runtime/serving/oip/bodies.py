"""Compressed bodies: inflated to a bound, so that a small body cannot fill the memory."""

from __future__ import annotations

import zlib

from ...errors import InputError
from ..errors import TooLarge

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def inflate(body: bytes, encoding: str, most: int) -> bytes:
    """Inflate a body.

    Args:
        body: as it came.
        encoding: what the header Content-Encoding says.
        most: bytes that the result may have.

    Raises:
        InputError: another encoding, or the body is damaged.
        TooLarge: the result has more bytes.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW_BITS:
        raise InputError(f"Content-Encoding must be one of {', '.join(_WINDOW_BITS)}, got {encoding[:60]!r}")
    inflater = zlib.decompressobj(_WINDOW_BITS[name])
    try:
        inflated = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise InputError(f"the body must be {name}, as Content-Encoding says: {error}") from error
    if len(inflated) > most:
        raise TooLarge(f"the body must inflate to at most {most} bytes")
    if not inflater.eof or inflater.unused_data:
        raise InputError(f"the body must be one whole {name} stream, as Content-Encoding says")
    return inflated
