"""A replica on Ray Serve.

`@serve.batch` collects the rows of all requests while the replica runs earlier ones. How many of them share a run, and
which, is decided by length and tokens in `batching.queue`: Ray's own sizes would refuse a long row, or put it behind
all others again and again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..errors import BusyError, DeadlineError, InputError, LosparseRuntimeError
from .replica import Ran, Replica, Waiting
from .requests import read_body

_together: Callable[[Callable[[Any, list[Waiting]], Awaitable[list[Ran]]]], Any] = serve.batch(
    max_batch_size=64, batch_wait_timeout_s=0.0
)
"""Both numbers are set by a replica."""


class RayReplica(Replica):
    """A replica behind Ray's HTTP proxy and its handles."""

    def __init__(self) -> None:
        super().__init__()

    @_together
    async def _collected(self, waiting: list[Waiting]) -> list[Ran]:
        """Run what was collected; callers give one row each."""
        return await self.run_joined(waiting)

    async def joined(self, row: Waiting) -> Ran:
        """Run a row beside those of others."""
        ran: Ran = await self._collected(row)
        return ran

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take other settings; see `Replica.reconfigure`."""
        await super().reconfigure(config)
        # More rows are collected for the runs that come next than share one, so that they can be sorted by length.
        self._collected.set_max_batch_size(self.settings.max_ongoing)
        self._collected.set_batch_wait_timeout_s(self.settings.max_wait_ms / 1000)

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a POST of {"texts": [...]} or {"inputs": {...}}; a GET says what is served."""
        if request.method == "GET":
            return JSONResponse(self._about())
        try:
            return JSONResponse(await self.answer(read_body(await self._content(request))))
        except LosparseRuntimeError as error:
            return JSONResponse({"error": " ".join(str(error).split())}, _status(error))

    def _about(self) -> dict[str, Any]:
        session = self.model.session
        return {
            "folder": Path(self.settings.folder).name,
            "task": session.task,
            "variant": session.variant,
            "version": session.metadata.fingerprint[:12],
            "labels": session.labels,
            "refused": self.refused,
            "inputs": [spec.to_dict() for spec in session.inputs],
            "outputs": [spec.to_dict() for spec in session.outputs],
        }

    async def _content(self, request: Request) -> bytes:
        """Return the body of a request, and read no more of a larger one than is allowed."""
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > self.settings.body_bytes:
                raise InputError(f"the body must have at most {self.settings.body_bytes} bytes; send it in parts")
        return bytes(content)


def _status(error: LosparseRuntimeError) -> HTTPStatus:
    if isinstance(error, DeadlineError):
        return HTTPStatus.GATEWAY_TIMEOUT
    if isinstance(error, BusyError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.BAD_REQUEST if isinstance(error, InputError) else HTTPStatus.INTERNAL_SERVER_ERROR
