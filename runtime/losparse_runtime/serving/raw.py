"""Routes that read bytes and give bytes, and are described to OpenAPI all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from ..errors import InputError
from .gate import ClientGone

B = TypeVar("B", bound=BaseModel)
_WATCH_AFTER_S = 0.05
"""Seconds of waiting after which a request looks whether its client is still there: earlier it costs more than it may
save."""
_MOST_SHOWN = 3


class RawRoute(APIRoute):
    """A route whose function takes the request and returns the response: nothing is done for it on the way.

    What FastAPI does by itself for parameters and models takes about as long as a short text's run.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


class Body(BaseModel):
    """A request's body: unknown fields are refused, and a number is no text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Said(BaseModel):
    """A body of an answer. Answers are made of plain values; this describes them."""


class ErrorSaid(Said):
    """What is wrong."""

    error: str


class WrongSaid(Said):
    """What is wrong."""

    message: str
    type: str
    code: int
    param: str | None


class OpenAIErrorSaid(Said):
    """What is wrong, in the form that OpenAI's clients read."""

    error: WrongSaid


Responses = dict[int | str, dict[str, Any]]
_WRONG = {
    400: "something in the request is wrong",
    401: "the token is missing, or another",
    404: "there is no such model",
    413: "the body is too large",
    500: "the model failed",
    503: "the queue is full, or the server is closing; Retry-After says when to come back",
    504: "the answer was not there in time",
}


def answers(kind: type[BaseModel]) -> Responses:
    """Return what `responses` says of a route for OpenAI's clients: its answer, and the errors that all may give."""
    return {200: {"model": kind}, **errors(*_WRONG, kind=OpenAIErrorSaid)}


def errors(*statuses: int, kind: type[BaseModel] = ErrorSaid) -> Responses:
    """Return what `responses` says of errors; all where none is named."""
    return {status: {"model": kind, "description": _WRONG[status]} for status in statuses or _WRONG}


def described(body: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Return what `openapi_extra` says of a body that the route reads itself."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


def read_body(kind: type[B], content: bytes) -> B:
    """Read a body.

    Raises:
        InputError: it is no JSON, or not of that kind; one line names the fields.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        said = [f"{'.'.join(map(str, each['loc'])) or 'the body'}: {each['msg']}" for each in wrong[:_MOST_SHOWN]]
        more = f"; and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
        raise InputError("; ".join(said) + more) from None


def json_response(value: object) -> Response:
    """Return a value as JSON."""
    return Response(to_json(value), media_type="application/json")


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel what is done for a client once it is gone.

    Raises:
        ClientGone: it is.
    """
    task = asyncio.current_task()
    assert task is not None, "a route runs in a task"
    gone = False
    watching: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    def begin() -> None:
        nonlocal watching
        watching = asyncio.ensure_future(watch())

    timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, begin)
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()
