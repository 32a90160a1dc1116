"""Several workers count together, whichever of them is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from losparse_runtime.serving.workers.listening import bind

from ..runtime.conftest import MakeFolder
from .processes import Process, request, wait_for


def test_workers_count_together(make_folder: MakeFolder, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "losparse.cli", "serve", f"made={make_folder().path}", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("wb") as stderr:
        started = [*command, "--port", str(port), "--json-logs"]
        process = subprocess.Popen(started, stderr=stderr, env=environment)
    server = Process(process, port, log)
    try:
        server.logged("worker is ready", 2)
        body = b'{"texts": "a b"}'
        with ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for _ in range(4)]
            for client in clients:
                client.send(request("/v1/classify", body))
                assert client.answer().status == 200
            both = b'losparse_text_tokens_total{model="made"} 16.0'  # 4 x 4; counted once an answer is sent
            for client in clients:
                wait_for(lambda client=client: both in client.get("/metrics").body, "the sum")  # type: ignore[misc]
        server.signal(signal.SIGTERM)
        assert server.end() == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
