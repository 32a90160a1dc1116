"""What watches the server: /metrics, and /health for those who do not speak the inference protocol."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ..gate import state_of
from ..metrics import Metrics
from ..models import ModelTable
from ..raw import RawRoute, Said, json_response


class ModelSaid(Said):
    """Whether a model takes requests, and how many rows wait for a run."""

    ready: bool
    waiting: int


class HealthSaid(Said):
    """Whether every model takes requests."""

    ready: bool
    models: dict[str, ModelSaid]


def router(models: ModelTable, metrics: Metrics) -> APIRouter:
    """Return the routes.

    Args:
        models: that are served.
        metrics: that are counted.
    """
    routes = APIRouter(route_class=RawRoute, tags=["watching"])

    @routes.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
    async def page(request: Request) -> Response:
        """Counters, as Prometheus reads them."""
        state_of(request.scope).route = "/metrics"
        for model in models:
            metrics.queue.labels(model.name).set(model.waiting)
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/health", responses={200: {"model": HealthSaid}, 503: {"model": HealthSaid, "description": "not now"}})
    async def health(request: Request) -> Response:
        """Whether every model takes requests: 200, or 503 while a queue is full."""
        state_of(request.scope).route = "/health"
        states = {model.name: {"ready": model.ready, "waiting": model.waiting} for model in models}
        answer = json_response({"ready": models.ready, "models": states})
        answer.status_code = 200 if models.ready else 503
        return answer

    return routes
