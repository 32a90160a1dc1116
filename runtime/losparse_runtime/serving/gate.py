"""What every request passes, before any route: its id, its token, the size of its body; and what every error becomes.

Pure ASGI, no middleware of Starlette's own kind: those take a task and several copies for each request.
"""

from __future__ import annotations

import hmac
import logging
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from ..errors import BusyError, DeadlineError, LosparseRuntimeError
from .errors import RequestError, TooLarge, Unauthorised, kind_of, status_of
from .logs import REQUEST_ID, fields
from .metrics import Metrics
from .settings import ServeSettings
from .tracing import span

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPENAI_PREFIX = "/v1/"
"""Routes whose errors have the form that OpenAI's clients read."""
_OPEN = ("/v2/health/", "/health", "/docs", "/openapi.json", "/static-offline-docs/")
"""Routes that need no token: probes have none, and the page of the routes asks for it."""
_STATE = "losparse"
_MOST_ID = 128
_CLIENT_GONE = 499  # as nginx calls it; nobody reads it but the log

_NUMBERS = random.Random(random.SystemRandom().getrandbits(128))
"""Ids are for reading logs, no secret; asking the system for each takes longer than the rest of the gate."""

logger = logging.getLogger(__name__)


class ClientGone(Exception):  # noqa: N818 - no error of anybody
    """The client closed its connection before its answer was there."""


@dataclass(slots=True)
class RequestState:
    """What a request's log line and metrics say of it; its route fills it in.

    Attributes:
        model: name of the model that answers.
        route: its template, as in "/v1/classify".
        tokens: of its texts.
    """

    model: str = ""
    route: str = ""
    tokens: int = 0


def state_of(scope: Scope) -> RequestState:
    """Return the state of a request."""
    state: RequestState = scope[_STATE]
    return state


class Gate:
    """The outermost part of the application.

    Args:
        app: what it lets requests pass to.
        settings: of the server.
        metrics: where requests are counted.
    """

    def __init__(self, app: App, settings: ServeSettings, metrics: Metrics) -> None:
        self.app = app
        self._most = settings.body_bytes
        self._token = None if settings.token is None else settings.token.encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _id_of(headers.get(b"x-request-id"))
        said = REQUEST_ID.set(request_id)
        scope[_STATE] = state = RequestState()
        answer = _Answer(send, request_id)
        try:
            with span(scope, headers):
                self._admit(scope, headers)
                await self.app(scope, self._counted(receive), answer)
        except LosparseRuntimeError as error:
            await self._refuse(scope, answer, status_of(error), str(error), error)
        except (ClientGone, ClientDisconnect):
            answer.status = _CLIENT_GONE
        except Exception:
            logger.exception("a request failed in an unexpected way", extra=fields(path=scope["path"]))
            text = f"the server failed; its log says more under request {request_id}"
            await self._refuse(scope, answer, HTTPStatus.INTERNAL_SERVER_ERROR, text)
        finally:
            self._record(scope, state, answer.status, time.perf_counter() - begin)
            REQUEST_ID.reset(said)

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuse a request without its token, or with a body that says it is too large."""
        if self._token is not None and not scope["path"].startswith(_OPEN):
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                raise Unauthorised(
                    "the request must have the header 'Authorization: Bearer TOKEN' with this server's token"
                )
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._most:
            raise TooLarge(self._too_large(int(length)))

    def _counted(self, receive: Receive) -> Receive:
        """Return what receives a body and refuses it once it is too large, whatever its head said."""
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if got > self._most:
                    raise TooLarge(self._too_large(got))
            return message

        return counted

    def _too_large(self, got: int) -> str:
        return f"the body must have at most {self._most} bytes, got {got} or more; send fewer texts at once"

    async def _refuse(
        self, scope: Scope, answer: _Answer, status: HTTPStatus, text: str, error: LosparseRuntimeError | None = None
    ) -> None:
        """Say an error, unless the answer has begun."""
        if answer.begun:
            return
        headers = []
        if isinstance(error, BusyError):
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        if status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        if isinstance(error, RequestError):
            headers.append((b"connection", b"close"))  # its body may still be on the way, and is not read
        body = error_body(scope["path"], status, text)
        await answer(
            {"type": "http.response.start", "status": int(status), "headers": [*_json_headers(body), *headers]}
        )
        await answer({"type": "http.response.body", "body": body})
        self._metrics.rejected.labels(state_of(scope).model, _reason(status, error)).inc()

    def _record(self, scope: Scope, state: RequestState, status: int, seconds: float) -> None:
        self._metrics.answered(state.model, state.route, status, seconds)
        if state.tokens:
            self._metrics.text_tokens.labels(state.model).inc(state.tokens)
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.SERVICE_UNAVAILABLE
        level = logging.WARNING if failed else logging.INFO
        if logger.isEnabledFor(level):
            said = fields(
                method=scope["method"],
                path=scope["path"][:200],
                status=status,
                ms=round(1000 * seconds, 3),
                model=state.model,
                tokens=state.tokens,
            )
            logger.log(level, "answered", extra=said)


class _Answer:
    """What sends an answer, with the id of its request; and how far it is."""

    __slots__ = ("_send", "_tag", "begun", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._tag = (b"x-request-id", request_id.encode())
        self.begun = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            message["headers"] = [*message.get("headers", ()), self._tag]
        await self._send(message)


def error_body(path: str, status: HTTPStatus, text: str) -> bytes:
    """Return the body of an error: `{"error": "one line"}`, and on routes of OpenAI's an object in its place.

    Args:
        path: of the request.
        status: of the answer.
        text: what is wrong.
    """
    line = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    if path.startswith(OPENAI_PREFIX):
        return to_json({"error": {"message": line, "type": kind_of(status), "code": int(status), "param": None}})
    return to_json({"error": line})


def _json_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]


def _reason(status: HTTPStatus, error: LosparseRuntimeError | None) -> str:
    if isinstance(error, BusyError):
        return "busy"
    if isinstance(error, DeadlineError):
        return "deadline"
    return "client" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "error"


def _id_of(given: bytes | None) -> str:
    """Return the id that a client gave its request, or a new one where it gave none that fits a header and a log."""
    if given is not None and 0 < len(given) <= _MOST_ID and given.isascii():
        text = given.decode()
        if text.isprintable() and " " not in text:
            return text
    return f"{_NUMBERS.getrandbits(64):016x}"
