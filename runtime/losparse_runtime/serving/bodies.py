"""Bodies of requests. Compressed ones are inflated to a bound: a small body cannot fill the memory."""

from __future__ import annotations

import zlib

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from ..errors import InputError
from .errors import TooLarge

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def body_of(request: Request, most: int) -> bytes:
    """Return the body of a request, inflated where it came compressed.

    Args:
        request: whose body was not read yet.
        most: bytes that it may have.

    Raises:
        InputError: it is not what the header Content-Encoding says.
        TooLarge: it has more bytes.
    """
    body = await request.body()
    encoding = request.headers.get("content-encoding")
    # A thread inflates: zlib lets others run meanwhile.
    return body if encoding is None else await run_in_threadpool(inflate, body, encoding, most)


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
