"""A model in another process: the real pipe, to a stand-in for OpenVINO that computes with onnxruntime."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from losparse_runtime import Draw, InputError, OpenVino, RunError, Session, benchmark, find_openvino, measure
from tests.openvino import use_stand_in

MakeFolder = Callable[..., Any]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OpenVINO on the path of child processes; returns the file where settings are written."""
    return use_stand_in(tmp_path, monkeypatch)


def test_outputs_are_those_of_the_model(make_folder: MakeFolder, stand_in: Path) -> None:
    folder = make_folder().path
    with OpenVino(folder, "f32", threads=3) as opponent:
        feeds = opponent.signature.random_feeds(Draw(2, 5))
        expected = Session(folder, threads=1).run(feeds)
        found = opponent.run(feeds)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)  # the same kernels, so exactly
        assert opponent.facts.versions == {"openvino": "2026.4.1", "nncf": "3.4.0"}
    seen = stand_in.read_text()
    assert '"INFERENCE_NUM_THREADS": 3' in seen and '"INFERENCE_PRECISION_HINT": "f32"' in seen
    assert '"PERFORMANCE_HINT": "LATENCY"' in seen and '"NUM_STREAMS": 1' in seen


def test_int8_is_calibrated_on_all_inputs_and_leaves_the_rest_to_openvino(
    make_folder: MakeFolder, stand_in: Path
) -> None:
    with OpenVino(make_folder().path, "int8"):
        seen = stand_in.read_text()
    assert "INFERENCE_PRECISION_HINT" not in seen
    assert seen.count("attention_mask") == seen.count("input_ids") == seen.count("token_type_ids") == 4
    assert '"input_ids": [2, 16]' in seen  # no longer than the model's 16 positions


def test_it_is_timed_by_its_own_clock_beside_sessions(make_folder: MakeFolder, stand_in: Path) -> None:
    folder = make_folder().path
    with OpenVino(folder, "f32") as opponent:
        times = measure({"ours": Session(folder, threads=1), "theirs": opponent}, length=8, runs=3, memory=False)
    assert times["theirs"].runs == 3
    assert times["theirs"].min_ms >= 20  # the stand-in sleeps as long, which this process's clock knows nothing of
    assert times["theirs"].speedup < 1 < times["ours"].runs


def test_a_benchmark_has_it_in_the_same_turns(make_folder: MakeFolder, stand_in: Path) -> None:
    folder = make_folder().path
    sessions = {"ours": Session(folder, threads=1)}
    with OpenVino(folder, "f32") as opponent:
        found = benchmark(sessions, [(1, 8)], opponents={"theirs": opponent}, runs=3)
        with pytest.raises(InputError, match="opponents must have other names than sessions, got 'ours' for both"):
            benchmark(sessions, [(1, 8)], opponents={"ours": opponent})
    assert [timing.model for timing in found.results] == ["ours", "theirs"]
    assert found.models["theirs"]["openvino"] == "f32" and "openvino" not in found.models["ours"]
    ours, theirs = (timing.latency.peak_memory_bytes for timing in found.results)
    assert ours is not None and theirs is None  # memory is measured by opening a folder in onnxruntime


@pytest.mark.parametrize(
    ("capabilities", "precisions"), [("FP32 BF16 INT8", ("f32", "bf16", "int8")), ("FP32 INT8", ("f32", "int8"))]
)
def test_bf16_is_there_where_the_cpu_has_it(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str, precisions: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CAPABILITIES", capabilities)
    facts = find_openvino()
    assert facts is not None and facts.precisions == precisions


def test_openvino_is_imported_without_what_reports_it(stand_in: Path) -> None:
    """The package that would tell its makers is there, and cannot be imported by the time openvino looks for it."""
    told = stand_in.parent / "told"
    (stand_in.parent / "packages" / "openvino_telemetry.py").write_text(f"open({str(told)!r}, 'w')")
    openvino = stand_in.parent / "packages" / "openvino.py"
    looks = "try:\n    import openvino_telemetry\nexcept ImportError:\n    pass\n"
    openvino.write_text(looks + openvino.read_text())
    assert find_openvino() is not None and not told.exists()


def test_without_openvino_there_is_none_and_opening_says_so(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "openvino.py"  # hides one that may be installed
    broken.write_text("raise ModuleNotFoundError('No module named openvino')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert find_openvino() is None
    with pytest.raises(RunError, match=rf"OpenVINO in {sys.executable}: ModuleNotFoundError: No module named openvino"):
        OpenVino(make_folder().path, "f32")


def test_what_cannot_be_is_refused_in_one_line(make_folder: MakeFolder, stand_in: Path, tmp_path: Path) -> None:
    folder = make_folder().path
    with pytest.raises(InputError, match="precision must be one of f32, bf16, int8 for OpenVINO, got 'fp32'"):
        OpenVino(folder, "fp32")
    with pytest.raises(InputError, match=r"cannot be started: .*no-python \(No such file or directory\)"):
        OpenVino(folder, "f32", python=tmp_path / "no-python")
    with OpenVino(folder, "f32") as opponent, pytest.raises(InputError, match="input_ids"):
        opponent.run({})


def test_a_process_that_ends_is_told_with_its_last_words(make_folder: MakeFolder, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of memory >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RunError, match="out of memory"):
        OpenVino(make_folder().path, "f32", python=python)


def test_the_python_is_named_by_the_environment(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSPARSE_OPENVINO_PYTHON", "/no/python")
    with pytest.raises(InputError, match="/no/python"):
        find_openvino()
    assert find_openvino(sys.executable) is not None
