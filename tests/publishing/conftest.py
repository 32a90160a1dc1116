"""A stand-in for the hub: its HTTP API as far as a push uses it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.runtime.conftest import make_folder as make_folder

TOKEN = "hf_of_a_test"


class Hub:
    """What the server has been told, and how it answers.

    Attributes:
        repos: "private" and files by branch, of each repository.
        refuses: status that it answers writes with; None to accept them.
        asked: method and path of every request.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.refuses: int | None = None
        self.asked: list[str] = []
        self.endpoint = ""

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        """Return status and JSON."""
        self.asked.append(f"{method} {path}")
        if self.refuses is not None or token != f"Bearer {TOKEN}":
            return self.refuses or 401, {"error": "refused"}
        parts = path.strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts == ["api", "validate-yaml"]:
            return 200, {"errors": [], "warnings": []}
        repo, (action, *rest) = "/".join(parts[2:4]), parts[4:]
        if action == "branch":
            branches = self.repos[repo]["branches"]
            return (409, {"error": "exists"}) if rest[0] in branches else (200, branches.setdefault(rest[0], {}))
        if action == "tree":
            files = self.repos[repo]["branches"][rest[0]]
            return 200, [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
        if action == "preupload":
            named = json.loads(body)["files"]
            return 200, {
                "files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in named]
            }
        if action == "commit":
            self._commit(self.repos[repo]["branches"][rest[0]], body)
            url = f"{self.endpoint}/{repo}/commit/{'0' * 40}"
            return 200, {"commitUrl": url, "commitOid": "0" * 40, "success": True, "hookOutput": ""}
        return 404, {"error": f"the stand-in has no {method} {path}"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.repos:
            return 409, {"error": "exists", "url": f"{self.endpoint}/{repo}"}
        self.repos[repo] = {"asked": asked, "branches": {"main": {}}}
        return 200, {"url": f"{self.endpoint}/{repo}", "name": repo, "id": repo}

    @staticmethod
    def _commit(files: dict[str, bytes], body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub of this machine; no request leaves it."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            status, data = state.answer(self.command, path, self.headers.get("Authorization"), body)
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_HEAD = _serve

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
