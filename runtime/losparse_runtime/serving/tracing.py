"""Traces by OpenTelemetry, where it is installed and set up (as by `opentelemetry-instrument`); nothing otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_INSTALLED = find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


def span(
    scope: Mapping[str, Any], headers: Mapping[bytes, bytes], provider: TracerProvider | None = None
) -> AbstractContextManager[object]:
    """Return the span of a request, below the one that its headers name.

    Args:
        scope: of the request, as ASGI has it.
        headers: of the request.
        provider: makes spans; by default what the process has set up, if it has.
    """
    if not _INSTALLED:
        return nullcontext()
    from opentelemetry import propagate, trace

    chosen = trace.get_tracer_provider() if provider is None else provider
    if isinstance(chosen, trace.ProxyTracerProvider):
        return nullcontext()  # nobody listens
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
    tracer = chosen.get_tracer("losparse_runtime.serving")
    return tracer.start_as_current_span(
        f"{scope['method']} {scope['path']}",
        context=propagate.extract(carrier),
        kind=trace.SpanKind.SERVER,
        attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
    )
