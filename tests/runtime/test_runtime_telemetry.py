"""onnxruntime's reports to its maker: off before it is loaded, wherever it is loaded from."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import losparse_runtime

TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"
ROOT = Path(losparse_runtime.__file__).parents[2]

# Under these onnxruntime holds its reports back by itself, which would hide ours.
QUIETENING = (TELEMETRY_SWITCH, "CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")


def run(program: str, home: Path, **environment: str) -> str:
    """What a program prints in an interpreter of its own, with a home folder of its own."""
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "export", "runtime"))
    inherited = {name: value for name, value in os.environ.items() if name not in QUIETENING}
    settings = {**inherited, "PYTHONPATH": paths, "HOME": str(home), **environment}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def files_below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_a_session_leaves_no_device_id(make_folder: Callable[..., Any], home: Path) -> None:
    folder = str(make_folder().path)
    run(f"from losparse_runtime import Session; Session({folder!r}, threads=1).classify('a b')", home)
    assert files_below(home) == []


@pytest.mark.parametrize("value", ["0", ""])
def test_whoever_sets_the_switch_is_obeyed(home: Path, value: str) -> None:
    program = f"import losparse_runtime, os; print([os.environ[{TELEMETRY_SWITCH!r}]])"
    assert run(program, home, **{TELEMETRY_SWITCH: value}) == str([value])
    assert run(program, home) == "['1']"


@pytest.mark.parametrize(("environment", "calls"), [({}, "[1]"), ({TELEMETRY_SWITCH: "0"}, "[]")])
def test_where_onnxruntime_was_loaded_before_its_events_are_off(
    home: Path, environment: dict[str, str], calls: str
) -> None:
    program = (
        "import onnxruntime; calls = []; onnxruntime.disable_telemetry_events = lambda: calls.append(1)\n"
        "from losparse_runtime.dependencies import import_onnxruntime; import_onnxruntime(); print(calls)"
    )
    assert run(program, home, **environment) == calls


def test_onnxruntime_is_imported_in_one_place() -> None:
    """Every other import would load it without the switch, or without the line that says how to install it."""
    found = []
    for package in ("losparse", "export", "runtime"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.partition(".")[0] == "onnxruntime" for name in names):
                    found.append(file.relative_to(ROOT))
    assert found == []


@pytest.mark.parametrize("module", ["losparse_runtime", "losparse_export.export", "losparse_export.precision.apply"])
def test_the_switch_is_set_before_anything_loads_onnxruntime(home: Path, module: str) -> None:
    program = f"import {module}, os, sys; print(os.environ[{TELEMETRY_SWITCH!r}], 'onnxruntime' in sys.modules)"
    assert run(program, home) == "1 False"
