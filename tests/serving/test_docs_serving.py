"""The pages' lines about the server run as they stand there: the server, curl, OpenAI's client and Triton's."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..runtime.conftest import MakeFolder

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- client: (curl|openai|tritonclient) -->\n```\w+\n(.*?)```", re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "docs" / "serving.md"]
LIMIT_S = 60


def blocks(page: Path, client: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if name == client]


def lines(page: Path, command: str) -> list[str]:
    text = "\n".join(blocks(page, "curl")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(f"{command} ")]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def served(page: Path, make_folder: MakeFolder, tmp_path: Path) -> Iterator[Path]:
    """The page's own server, with folders of the names that it gives; yields the page."""
    make_folder(name="films-onnx")
    make_folder("feature-extraction", name="sentences-onnx")
    (command,) = lines(page, "losparse")
    words = shlex.split(command, comments=True)
    port = words[words.index("--port") + 1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export"), str(ROOT / "runtime")]),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "losparse.cli", *words[1:]],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until_ready(f"http://127.0.0.1:{port}/v2/health/ready", process)
        yield page
    finally:
        process.terminate()
        assert process.wait(LIMIT_S) == 0, process.stderr and process.stderr.read()
        assert process.stderr is not None
        process.stderr.close()


def until_ready(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address) as answer:
                assert answer.status == 200
                return
        except urllib.error.URLError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(process.stderr and process.stderr.read())


def test_every_line_of_curl_is_answered_and_so_are_other_clients(served: Path, tmp_path: Path) -> None:
    commands = lines(served, "curl")
    assert commands
    for command in commands:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, (command, done.stderr)
        if "/metrics" in command:
            assert "losparse_request_seconds" in done.stdout
        elif done.stdout:  # of health there is nothing but the status
            assert "error" not in json.loads(done.stdout), (command, done.stdout)
    for program in blocks(served, "openai"):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[0] == "4"  # numbers of a vector
    for program in blocks(served, "tritonclient"):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert (done.returncode, done.stdout) == (0, "(2, 3)\n"), done.stderr
