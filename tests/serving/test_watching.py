"""Logs, traces, and requests whose client is gone."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from losparse_runtime.serving.gate import ClientGone, Gate
from losparse_runtime.serving.logs import REQUEST_ID, JsonLines, Words, fields
from losparse_runtime.serving.metrics import Metrics
from losparse_runtime.serving.raw import while_connected
from losparse_runtime.serving.settings import ServeSettings
from losparse_runtime.serving.tracing import span

from ..runtime.conftest import MakeFolder
from .conftest import Serve

LONG = 20.0  # seconds, that nothing here takes


def record(message: str, *arguments: object, **said: object) -> logging.LogRecord:
    made = logging.LogRecord("losparse_runtime.serving", logging.WARNING, "x.py", 1, message, arguments, None)
    made.__dict__.update(fields(**said))
    return made


def test_a_record_is_one_line_of_json() -> None:
    token = REQUEST_ID.set("abc")
    line = JsonLines().format(record("model %s: refused", "a\nb", status=503))
    REQUEST_ID.reset(token)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["message"], said["status"], said["request"], said["level"]) == (
        "model a\nb: refused",
        503,
        "abc",
        "warning",
    )


def test_words_of_a_client_begin_no_line_of_their_own() -> None:
    assert Words().format(record("said %s", "a\nlosparse: all is well", status=400)) == (
        "losparse: said a losparse: all is well status=400"
    )


def test_a_request_is_logged_with_its_id(make_folder: MakeFolder, serve: Serve, caplog: Any) -> None:
    for name in ("losparse_runtime.serving", "losparse_runtime.serving.gate"):  # whatever level another test left
        caplog.set_level(logging.INFO, name)
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonLines().format(record))

    logger = logging.getLogger("losparse_runtime.serving.gate")
    handler = Kept()
    logger.addHandler(handler)
    try:
        body = {"texts": "a b"}
        serve({"made": make_folder()}).post("/v1/classify", json=body, headers={"X-Request-Id": "r-1"})
    finally:
        logger.removeHandler(handler)
    (said,) = [json.loads(line) for line in lines if "answered" in line]
    assert (said["request"], said["path"], said["status"], said["tokens"]) == ("r-1", "/v1/classify", 200, 4)


def test_a_request_is_a_span_below_the_one_its_headers_name() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with span({"method": "POST", "path": "/v1/classify"}, {b"traceparent": parent}, provider):
        pass
    (made,) = exporter.get_finished_spans()
    assert made.name == "POST /v1/classify"
    assert made.parent is not None
    assert f"{made.parent.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    provider.shutdown()


def test_nothing_is_traced_where_nobody_listens() -> None:
    with span({"method": "GET", "path": "/"}, {}) as made:
        assert made is None


class Asked:
    """A request whose client goes when it is told to."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def test_what_is_done_for_a_client_that_goes_is_cancelled() -> None:
    async def scenario() -> None:
        asked = Asked()
        begun = asyncio.Event()

        async def route() -> None:
            async with while_connected(asked):  # type: ignore[arg-type]
                begun.set()
                await asyncio.sleep(LONG)

        task = asyncio.ensure_future(route())
        await begun.wait()
        asked.gone.set()
        async with asyncio.timeout(LONG / 2):
            with pytest.raises(ClientGone):
                await task

    asyncio.run(scenario())


def test_a_server_that_stops_a_request_is_no_client_that_went() -> None:
    async def scenario() -> None:
        asked, begun = Asked(), asyncio.Event()

        async def route() -> None:
            async with while_connected(asked):  # type: ignore[arg-type]
                begun.set()
                await asyncio.sleep(LONG)

        task = asyncio.ensure_future(route())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_nothing_is_sent_to_a_client_that_went() -> None:
    sent: list[Any] = []

    async def gone(scope: Any, receive: Any, send: Any) -> None:
        raise ClientGone

    async def send(message: Any) -> None:
        sent.append(message)

    metrics = Metrics()
    gate = Gate(gone, ServeSettings(), metrics)
    scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": []}
    asyncio.run(gate(scope, Asked.receive, send))  # type: ignore[arg-type]
    assert sent == []
    assert b'status="499"' in metrics.page()
