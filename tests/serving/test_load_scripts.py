"""The scripts that load servers run as they stand, for moments on a tiny model: what they check, not what they time."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..runtime.conftest import MakeFolder

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of benchmarks/ in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=ROOT)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Texts that the tiny model says different things of."""
    file = tmp_path / "texts.csv"
    listed = [" ".join(each) for each in itertools.permutations("abcd", 3)]
    file.write_text("\n".join(["text,label", *(f"{text},0" for text in listed)]) + "\n")
    return file


def test_servers_are_loaded_in_turns_and_every_answer_is_compared(
    make_folder: MakeFolder, tmp_path: Path, texts: Path
) -> None:
    folder, results = make_folder().path, tmp_path / "results.json"
    few = ("--seconds", "0.2", "--rounds", "2", "--clients", "1", "4", "--texts", texts)
    done = script("serve_load", folder, *few, "--json", results, "--name", "tiny")
    assert done.returncode == 0, done.stderr
    (kind,) = json.loads(results.read_text())["kinds"].values()
    rows = {(row["clients"], row["server"]): row["rounds"] for row in kind["tiny"]["rows"]}
    names = ("losparse serve", "losparse serve, unbatched", "FastAPI + onnxruntime")
    assert list(rows) == [(clients, name) for clients in (1, 4) for name in names]
    assert all(each["requests"] > 0 and each["p50_ms"] <= each["p99_ms"] for row in rows.values() for each in row)
    assert all(each["rows_in_run"] == 1 for each in rows[4, "losparse serve, unbatched"])
    assert done.stdout.count("| losparse serve |") == 2


def test_what_a_server_adds_is_measured_beside_the_session(
    make_folder: MakeFolder, tmp_path: Path, texts: Path
) -> None:
    folder, results = make_folder().path, tmp_path / "results.json"
    without = ("--without", "FastAPI + onnxruntime")
    few = ("--seconds", "0.2", "--rounds", "2", "--texts", texts)
    done = script("serve_load", folder, "--latency", *few, "--json", results, "--name", "tiny", *without)
    assert done.returncode == 0, done.stderr
    (kind,) = json.loads(results.read_text())["kinds"].values()
    (found,) = kind["tiny"]["latency"].values()
    assert found["turns"] >= 1 and found["http_ms"] > found["session_ms"] > 0
    assert found["added_ms"]["low"] <= found["added_ms"]["value"] <= found["added_ms"]["high"]
