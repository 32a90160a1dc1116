"""What a folder and its graph say of their task, and that the graph computes the same whatever it is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from losparse.errors import LosparseError
from losparse_export import ExportReport
from losparse_runtime import Session

from .builders import build_model

SEVERAL = "multi_label_classification"


def graph_alone(folder: Path) -> bytes:
    """The bytes of a graph without what it says of itself."""
    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def test_a_graph_is_the_same_whatever_its_task_is_called(
    export_bert: Callable[..., ExportReport], tmp_path: Path
) -> None:
    single = export_bert(tmp_path / "single")
    several = export_bert(tmp_path / "several", source=build_model("bert", seed=1, problem_type=SEVERAL))
    asked = export_bert(tmp_path / "asked", task="multi-label-classification")
    assert [each.task for each in (single, several, asked)] == ["text-classification", *2 * [several.task]]
    assert several.task == "multi-label-classification"
    for report in (several, asked):
        assert graph_alone(report.folder) == graph_alone(single.folder)
        assert json.loads((report.folder / "losparse.json").read_text())["task"] == several.task
        carried = Session(report.folder, threads=1).carried
        assert carried["losparse.task"] == json.loads(carried["losparse.description"])["task"] == several.task
        # also where the model did not say it: other readers know of no other place
        assert json.loads((report.folder / "config.json").read_text())["problem_type"] == SEVERAL
    assert json.loads((single.folder / "config.json").read_text())["problem_type"] is None


def test_a_task_that_the_model_denies_is_refused(tmp_path: Path, export_bert: Callable[..., ExportReport]) -> None:
    model: Any = build_model("bert", seed=1, problem_type=SEVERAL)
    with pytest.raises(LosparseError, match="so task must be 'multi-label-classification', got 'regression'; leave"):
        export_bert(tmp_path / "out", source=model, task="regression")
    assert not (tmp_path / "out").exists()
