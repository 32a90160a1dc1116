"""A server of its own process for tests of processes: routes that say who answers, that take time, and that hang.

Run as `python toy_server.py DESCRIPTOR JSON`: the descriptor of a bound socket, and settings. `FAIL` in the environment
says how starting fails, and is a line of the module's `FAILURES`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from losparse_runtime.errors import FolderError, LosparseRuntimeError
from losparse_runtime.serving.logs import set_up_logs
from losparse_runtime.serving.settings import ServeSettings
from losparse_runtime.serving.workers import serve


def _refuse() -> None:
    raise FolderError("toy/losparse.json: is missing; export the model again")


def _end() -> None:
    os._exit(7)


FAILURES: dict[str, Callable[[], None]] = {"refuses": _refuse, "ends": _end, "sleeps": lambda: time.sleep(60)}


def make_app() -> FastAPI:
    failure = os.environ.get("FAIL")
    if failure is not None:
        FAILURES[failure]()
    app = FastAPI()
    app.state.reloads = app.state.streams = app.state.asleep = 0

    def reload() -> None:
        app.state.reloads += 1

    app.state.reload = reload

    @app.get("/pid")
    async def pid() -> dict[str, int]:
        state = app.state
        return {"pid": os.getpid(), "reloads": state.reloads, "streams": state.streams, "asleep": state.asleep}

    @app.get("/sleep/{seconds}")
    async def sleep(seconds: float) -> dict[str, int]:
        app.state.asleep += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            app.state.asleep -= 1
        return {"pid": os.getpid()}

    @app.get("/hang/{seconds}")
    async def hang(seconds: float) -> dict[str, int]:
        time.sleep(seconds)  # on the event loop: nothing else of this worker goes on
        return {"pid": os.getpid()}

    @app.post("/length")
    async def length(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @app.get("/stream/{parts}")
    async def stream(parts: int) -> StreamingResponse:
        async def content() -> AsyncIterator[bytes]:
            app.state.streams += 1
            try:
                for _ in range(parts):
                    yield b"x" * 65536
            finally:
                app.state.streams -= 1

        return StreamingResponse(content())

    return app


def main() -> int:
    set_up_logs(json_lines=True, requests=False)
    listener = socket.socket(fileno=int(sys.argv[1]))
    try:
        return serve(make_app, ServeSettings(**json.loads(sys.argv[2])), listener)
    except LosparseRuntimeError as error:
        print(f"losparse: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
