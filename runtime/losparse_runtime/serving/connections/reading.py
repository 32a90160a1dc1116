"""The reading half of a connection: what the parser says, and what it lets pass though it is no good."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from .heads import Head, without_upgrade
from .limits import Limits
from .refusals import Refused

_MOST_DROPPED = 1024 * 1024
"""Bytes of a body that are read to nothing after the answer, so that the connection can go on."""
_TLS_HELLO = b"\x16"

logger = logging.getLogger("losparse_runtime.serving")


class Part(Enum):
    """The part of a request whose bytes come next."""

    NONE = 0
    HEAD = 1
    BODY = 2


class Reading(HttpToolsProtocol):
    """uvicorn's protocol with every request checked as it is read; `Connection` refuses those that are no good.

    Attributes:
        limits: of every connection.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head = Head(self.limits.head_bytes, self.limits.headers)
        self._part = Part.NONE
        self._messages = 0
        self._upgrade = False
        self._dropped = 0

    def _feed(self, data: bytes) -> None:
        """Read bytes.

        Raises:
            Refused: they are no good.
        """
        before, part = self._messages, self._part
        if not before and data.startswith(_TLS_HELLO):
            raise Refused(HTTPStatus.BAD_REQUEST, "this port speaks HTTP without TLS; ask it by http://")
        rest = data
        while rest:
            rest = self._parse(rest)
        if self._part is Part.HEAD:
            # Of bytes that end one request and begin the next it is not known how many are of which.
            begun = self._messages - before
            if not begun or (begun == 1 and part is Part.NONE):
                self._head.fed(len(data))
            if b"\n" in data and self.url and self.parser.get_http_version() == "0.0":
                raise Refused(HTTPStatus.BAD_REQUEST, "a request line must be METHOD TARGET HTTP/1.1, got no version")
        elif self._part is Part.NONE and self._messages == before and part is Part.NONE:
            self._head.blank(len(data))

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; returns those to parse again, because they began with a wish for another protocol."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade = False
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            head = without_upgrade(self.scope["method"].encode(), self.url, self.scope["http_version"], self.headers)
            return head + data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            raise _refusal_of(error) from None
        except httptools.HttpParserError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"this is no request of HTTP/1.1: {error}") from None
        return b""

    # What the parser says

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._messages += 1
        self._part = Part.HEAD
        self._head.begin()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._head.url(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind the body are dropped: what reads the head does not know them."""
        self._head.header(name.lower(), value)
        if self._part is Part.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self._head.complete(method, version)
        if self.parser.should_upgrade():
            self._upgrade = True  # the head comes again without the wish
            self.scope["method"], self.scope["http_version"] = method.decode(), version
            return
        self._part = Part.BODY
        self._dropped = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        if self._upgrade:
            return
        super().on_message_complete()
        self._part = Part.NONE

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; what comes after the answer goes nowhere, and not for long."""
        if not self.cycle.response_complete:
            super().on_body(body)
            return
        self._dropped += len(body)
        if self._dropped > _MOST_DROPPED:
            self.transport.close()


def _refusal_of(error: httptools.HttpParserCallbackError) -> Refused:
    """Return what a callback of the parser refused, or why it could not read a request."""
    cause = error.__context__
    if isinstance(cause, Refused):
        return cause
    if not isinstance(cause, httptools.HttpParserError | UnicodeError | AttributeError):
        logger.error("a request could not be read in an unexpected way", exc_info=cause)
    return Refused(HTTPStatus.BAD_REQUEST, "the target of a request must be a path, as in /v2/health/live")
