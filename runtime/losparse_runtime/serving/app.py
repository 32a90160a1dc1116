"""The server as a FastAPI application: models are opened when it starts, and closed when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from .gate import Gate, error_body
from .metrics import Metrics
from .models import ModelPlace, ModelTable, Open, open_session
from .routes import embeddings, oip, texts, watching
from .settings import ServeSettings

logger = logging.getLogger(__name__)


def create_app(
    places: Sequence[ModelPlace], settings: ServeSettings | None = None, open_session: Open = open_session
) -> FastAPI:
    """Make the application.

    Args:
        places: the models to serve.
        settings: of the server; the defaults where there are none.
        open_session: opens a folder.

    Returns:
        An ASGI application; its `state.models` is the `ModelTable`.

    Raises:
        InputError: there is no model, or two have one name.
    """
    chosen = ServeSettings() if settings is None else settings
    metrics = Metrics()
    models = ModelTable(places, chosen, metrics.heard, open_session)
    # FastAPI's own page of the routes is made of files of a public server; this one's are installed with it.
    app = FastAPIOffline(
        redoc_url=None,
        title="losparse",
        summary="Models that losparse exported, behind the Open Inference Protocol and routes that take texts.",
        version=_version(),
        lifespan=_lifespan,
        redirect_slashes=False,  # a path is one of the routes, or none
    )
    app.state.models = models
    app.state.reload = models.look  # on SIGHUP
    app.state.metrics = metrics
    # One flat list: FastAPI looks for a path twice in a router that is included.
    for router in (
        texts.router(models, chosen),
        embeddings.router(models, chosen),
        oip.router(models, chosen),
        watching.router(models, metrics),
    ):
        app.router.routes.extend(router.routes)
    app.add_exception_handler(HTTPException, _as_json)
    app.add_middleware(Gate, settings=chosen, metrics=metrics)
    if chosen.token is not None:
        _ask_for_token(app)
    return app


def _ask_for_token(app: FastAPI) -> None:
    """Let the page of the routes ask for the token, and send it."""
    described = app.openapi()
    described.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{"token": []}]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the models, look for replaced folders, and close in the end."""
    models: ModelTable = app.state.models
    await models.load()
    for model in models:
        logger.info("model %s: %s; %s", model.name, model.session, model.session.choice)
    watching_them = asyncio.create_task(models.watch())
    try:
        yield
    finally:
        watching_them.cancel()
        await models.close()


async def _as_json(request: Request, error: Exception) -> Response:
    """Say in the form of all errors that there is no such route, or no such method of it."""
    assert isinstance(error, HTTPException), "the handler is for no other"
    text = f"{request.method} {request.url.path[:100]}: {error.detail}; /docs shows the routes"
    content = error_body(request.scope["path"], HTTPStatus(error.status_code), text)
    return Response(content, error.status_code, error.headers, media_type="application/json")


def _version() -> str:
    try:
        return version("losparse")
    except PackageNotFoundError:  # run from its source
        return "0"
