"""The head of a request: how large it may be, and what the parser lets pass though it is no HTTP/1.1."""

from __future__ import annotations

from http import HTTPStatus

from .refusals import Refused

_BLANK = 64
"""Bytes of empty lines that may come before a request; old clients send a few."""
_PER_HEADER = 4
"""Bytes of a header beside its name and value: colon, space, end of line."""
_VERSIONS = ("1.0", "1.1")


class Head:
    """Checks the head of one request after the other while its parts are read.

    Args:
        most_bytes: of request line and headers together.
        most_headers: how many headers, and how many more behind a body in pieces.
    """

    __slots__ = ("_blank", "_bytes", "_chunked", "_fed", "_headers", "_hosts", "_most_bytes", "_most_headers")

    def __init__(self, most_bytes: int, most_headers: int) -> None:
        self._most_bytes = most_bytes
        self._most_headers = most_headers
        self._blank = 0
        self.begin()

    def begin(self) -> None:
        """Forget the request before."""
        self._blank = self._bytes = self._fed = self._headers = self._hosts = 0
        self._chunked = False

    def blank(self, count: int) -> None:
        """Count bytes that began no request.

        Raises:
            Refused: they are too many.
        """
        self._blank += count
        if self._blank > _BLANK:
            raise Refused(HTTPStatus.BAD_REQUEST, f"a request must begin within {_BLANK} bytes of empty lines")

    def fed(self, count: int) -> None:
        """Count bytes of a head that is not whole: a header without an end is not seen by `header`.

        Raises:
            Refused: they are too many.
        """
        self._fed += count
        self._check(self._fed)

    def url(self, part: bytes) -> None:
        """Count a part of the target.

        Raises:
            Refused: the head is too large.
        """
        self._bytes += len(part)
        self._check(self._bytes)

    def header(self, name: bytes, value: bytes) -> None:
        """Take a header; its name in small letters.

        Raises:
            Refused: there are too many, they are too large, or the body would come in a form that is not taken.
        """
        self._headers += 1
        self._bytes += len(name) + len(value) + _PER_HEADER
        self._check(self._bytes)
        if self._headers > self._most_headers:
            raise _too_large(f"a request may have {self._most_headers} headers, got more")
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding":
            self._chunked = True
            if value.strip().lower() != b"chunked":
                # Whoever stands before this server may read another one where the body ends.
                raise Refused(HTTPStatus.BAD_REQUEST, f"Transfer-Encoding must be chunked, got {_shown(value)}")

    def complete(self, method: bytes, version: str) -> None:
        """Check what only the whole head says.

        Raises:
            Refused: of another version, to be tunnelled, or without the one host that HTTP/1.1 asks for.
        """
        self._headers = 0  # those behind the body count by themselves
        if version not in _VERSIONS:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the server speaks HTTP/1.1 and 1.0, got version {version}")
        if method == b"CONNECT":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "the server is no proxy: CONNECT is not allowed")
        if self._hosts > 1 or (version == "1.1" and not self._hosts):
            raise Refused(HTTPStatus.BAD_REQUEST, f"a request must have one header Host, got {self._hosts}")
        if self._chunked and version == "1.0":
            raise Refused(HTTPStatus.BAD_REQUEST, "a request of HTTP/1.0 has no Transfer-Encoding")

    def _check(self, count: int) -> None:
        if count > self._most_bytes:
            raise _too_large(f"request line and headers may have {self._most_bytes} bytes, got more")


def _too_large(text: str) -> Refused:
    return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("latin1"))


def without_upgrade(method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return a head as its client would have sent it without the wish for another protocol.

    Clients of HTTP/2 wish so with every first request (Java's does by default), and take an answer of HTTP/1.1 as well.
    The parser would give up all that comes behind such a head, and its body too.

    Args:
        method: as in b"POST".
        url: as it came.
        version: as in "1.1".
        headers: names in small letters, and values.
    """
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            kept = [part for part in value.split(b",") if part.strip().lower() not in (b"upgrade", b"http2-settings")]
            value = b",".join(kept)
        if name not in (b"upgrade", b"http2-settings"):
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join(lines) + b"\r\n\r\n"
