"""The Open Inference Protocol v2 over HTTP, which Triton's and KServe's clients speak: `serving.oip` behind routes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from ...errors import InputError
from ..asking import deadline_of
from ..bodies import body_of
from ..gate import state_of
from ..models import ModelTable, ServedModel
from ..oip import schemas
from ..oip.metadata import model_metadata, server_metadata
from ..oip.request import InferRequest, parse_request
from ..oip.response import answer_bytes, render_response
from ..oip.tensors import shown
from ..raw import RawRoute, errors, json_response, while_connected
from ..settings import ServeSettings

_MODEL = "/v2/models/{name}"
_VERSION = "/versions/{version}"
_MOST_DIGITS = 18  # of a length
_LARGE = 2**20
"""Bytes of an answer, about, above which it is not written where all requests are read."""


def router(models: ModelTable, settings: ServeSettings) -> APIRouter:
    """Return the routes.

    Args:
        models: that are served.
        settings: of the server.
    """
    routes = APIRouter(route_class=RawRoute, tags=["Open Inference Protocol v2"])
    _add_infer(routes, models, settings)  # the most wanted first: paths are tried one after the other
    _add_models(routes, models)
    _add_server(routes, models)
    return routes


def _add_server(routes: APIRouter, models: ModelTable) -> None:
    @routes.get("/v2", responses=schemas.SERVER)
    async def server(request: Request) -> Response:
        """The server, and what it can beyond the protocol."""
        state_of(request.scope).route = "/v2"
        return json_response(server_metadata(request.app.version))

    @routes.get("/v2/health/live", responses=schemas.flag("live"))
    async def live(request: Request) -> Response:
        """Whether the server answers."""
        state_of(request.scope).route = "/v2/health/live"
        return json_response({"live": True})

    @routes.get("/v2/health/ready", responses=schemas.flag("ready"))
    async def ready(request: Request) -> Response:
        """Whether every model takes requests: 200, or 503 while a queue is full."""
        state_of(request.scope).route = "/v2/health/ready"
        return _flag(models.ready, ready=models.ready)

    @routes.post("/v2/repository/index", responses=schemas.INDEX)
    async def index(request: Request) -> Response:
        """The models, and whether they take requests."""
        state_of(request.scope).route = "/v2/repository/index"
        return json_response(list(map(_indexed, models)))


def _add_models(routes: APIRouter, models: ModelTable) -> None:
    async def model(request: Request) -> Response:
        """What a model takes and gives."""
        found = _find(models, request, "")
        return json_response(model_metadata(found.name, [found.version], found.session.signature))

    async def model_ready(request: Request) -> Response:
        """Whether a model takes requests: 200, or 503 while its queue is full."""
        found = _find(models, request, "/ready")
        return _flag(found.ready, name=found.name, ready=found.ready)

    said, ready_said = {**schemas.MODEL, **errors(404)}, {**schemas.flag("name", "ready"), **errors(404)}
    for between in ("", _VERSION):
        extra = {"parameters": schemas.model_path(_first(models), versions=bool(between))}
        routes.get(_MODEL + between, responses=said, openapi_extra=extra)(model)
        routes.get(f"{_MODEL}{between}/ready", responses=ready_said, openapi_extra=extra)(model_ready)


def _add_infer(routes: APIRouter, models: ModelTable, settings: ServeSettings) -> None:
    async def infer(request: Request) -> Response:
        """The outputs of a model for tensors, as JSON or as bytes behind it."""
        body = await body_of(request, settings.body_bytes)
        # From here to the queue without a pause: a model that is replaced meanwhile takes what it was asked.
        model = _find(models, request, "/infer")
        asked = parse_request(body, _header_length(request), model.session.signature)
        version, large = model.version, _bound(asked, model, settings) > _LARGE
        async with while_connected(request):
            outputs = await model.infer(asked.inputs, deadline_s=_deadline(request, asked))
        # A thread writes a large answer: others get their turn meanwhile.
        rendering = (outputs, asked, model.name, version)
        content, json_length = (
            await run_in_threadpool(render_response, *rendering) if large else render_response(*rendering)
        )
        if json_length is None:
            return Response(content, media_type="application/json")
        headers = {schemas.HEADER_LENGTH: str(json_length)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    said = {**schemas.INFER, **errors()}
    for between in ("", _VERSION):
        extra = schemas.infer_extra(_first(models), versions=bool(between))
        routes.post(f"{_MODEL}{between}/infer", responses=said, openapi_extra=extra)(infer)


def _first(models: ModelTable) -> str:
    return next(iter(models)).name


def _find(models: ModelTable, request: Request, end: str) -> ServedModel:
    """Return the model that a path names, and say it to whoever counts requests.

    Raises:
        NotFound: there is none of that name and version.
    """
    state = state_of(request.scope)
    version = request.path_params.get("version")
    state.route = _MODEL + ("" if version is None else _VERSION) + end
    found = models.get(request.path_params["name"], version)
    state.model = found.name
    return found


def _header_length(request: Request) -> int | None:
    text = request.headers.get(schemas.HEADER_LENGTH)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise InputError(f"{schemas.HEADER_LENGTH} must be a number of bytes, got {shown(text)}")
    return int(text)


def _bound(asked: InferRequest, model: ServedModel, settings: ServeSettings) -> int:
    """Refuse a request of more rows than may wait, and one whose answer would fill the memory.

    Returns:
        About the bytes of the answer.
    """
    rows = max((len(array) for array in asked.inputs.values() if array.ndim), default=0)
    if rows > settings.queue:
        raise InputError(
            f"inputs must have at most {settings.queue} rows in one request, got {rows}; send them in parts"
        )
    size = answer_bytes(asked, model.session.signature)
    if size > settings.answer_bytes:
        raise InputError(
            f"the answer would take about {size} bytes of memory, at most {settings.answer_bytes} are granted; "
            "send fewer rows at once, or ask for outputs as bytes (binary_data)"
        )
    return size


def _deadline(request: Request, asked: InferRequest) -> float | None:
    """Return the shorter of the times that the header and the body give; None where neither does."""
    given = [seconds for seconds in (deadline_of(request), asked.timeout_s) if seconds is not None]
    return min(given, default=None)


def _indexed(model: ServedModel) -> dict[str, Any]:
    state, reason = ("READY", "") if model.ready else ("UNAVAILABLE", "its queue is full, or it is closing")
    return {"name": model.name, "version": model.version, "state": state, "reason": reason}


def _flag(yes: bool, **said: object) -> Response:
    answer = json_response(said)
    answer.status_code = HTTPStatus.OK if yes else HTTPStatus.SERVICE_UNAVAILABLE
    return answer
