"""How right a folder is on labelled texts, by the metric of each task, against numbers counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from losparse.errors import LosparseError
from losparse_export.accuracy.measure import measure_accuracy, read_labelled
from losparse_export.opening.task_model import TaskModel
from losparse_runtime import Session
from losparse_runtime.contract.task import TASKS

from ..runtime.conftest import MakeFolder, make_folder

__all__ = ["make_folder"]  # a fixture of the runtime's tests

TEXTS = ["a b c", "d", "e f g a b c", "g g", "a", "f d"]


def model_like(session: Session, scale: float = 1.0) -> TaskModel:
    """A model that says what a session's graph says, times a number."""

    def reference(inputs: dict[str, Any]) -> dict[str, Any]:
        found = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) * scale for name, array in found.items()}

    names = session.labels or ()
    config = SimpleNamespace(num_labels=len(names), id2label=dict(enumerate(names)))
    made = SimpleNamespace(model=SimpleNamespace(config=config), task=TASKS[session.task], reference=reference)
    return cast(TaskModel, made)


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def measured(folder: Path, data: Path, scale: float = 1.0) -> dict[str, Any]:
    model = model_like(Session(folder, threads=1), scale)
    return measure_accuracy(model, folder, read_labelled(data, model))


def test_one_class_a_text(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder().path
    said = [each.label for each in Session(folder, threads=1).classify(TEXTS)]
    wrong = next(name for name in ("red", "green") if name != said[0])
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, [wrong, *said[1:]], strict=True)]
    found = measured(folder, write(tmp_path / "dev.jsonl", rows))
    assert (found["file"], found["texts"], found["metric"]) == ("dev.jsonl", 6, "accuracy")
    assert found["pytorch"] == found["onnx"] == pytest.approx(5 / 6)
    assert set(found["metrics"]) == {"accuracy", "matthews"}


def test_several_classes_a_text(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("multi-label-classification", seed=5).path
    said = [each.labels() for each in Session(folder, threads=1).classify(TEXTS)]
    assert any(len(each) > 1 for each in said)
    right = sum(len(each) for each in said)
    rows = [{"text": text, "labels": labels} for text, labels in zip(TEXTS, said, strict=True)]
    rows[0]["labels"] = [name for name in ("red", "green", "blue") if name not in said[0]]
    found = measured(folder, write(tmp_path / "dev.jsonl", rows))
    kept, missed = right - len(said[0]), len(rows[0]["labels"])
    assert found["metric"] == "f1"
    assert found["onnx"] == pytest.approx(2 * kept / (2 * kept + len(said[0]) + missed))
    assert found["metrics"]["accuracy"]["pytorch"] == pytest.approx(5 / 6)


def test_numbers_of_pairs(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("regression").path
    scores = [each.score for each in Session(folder, threads=1).classify(TEXTS, pairs=TEXTS[::-1])]
    truth = [2 * score - 1 for score in scores[:-1]] + [0.0]
    rows = [
        {"sentence1": one, "sentence2": other, "score": number}
        for one, other, number in zip(TEXTS, TEXTS[::-1], truth, strict=True)
    ]
    found = measured(folder, write(tmp_path / "dev.jsonl", rows), scale=3.0)  # which no correlation sees
    expected = np.corrcoef(scores, truth)[0, 1]
    assert (found["metric"], found["onnx"]) == ("pearson", pytest.approx(expected, rel=1e-5))
    assert found["pytorch"] == pytest.approx(expected, rel=1e-5)
    assert found["metrics"]["mse"]["onnx"] == pytest.approx(np.mean(np.subtract(scores, truth) ** 2), rel=1e-5)
    assert found["metrics"]["mse"]["pytorch"] > 2 * found["metrics"]["mse"]["onnx"]


def test_classes_of_words(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("token-classification").path
    texts = [*TEXTS, " ".join("abcdefgh" * 3)]  # 24 words, of which 14 are read
    tags = [[tag.label for tag in each] for each in Session(folder, threads=1).tag(texts)]
    tags[-1] += ["red"] * 10
    tags[0][0] = next(name for name in ("red", "green") if name != tags[0][0])
    rows = [{"words": text.split(), "tags": labels} for text, labels in zip(texts, tags, strict=True)]
    found = measured(folder, write(tmp_path / "dev.jsonl", rows))
    words = sum(len(text.split()) for text in TEXTS) + 14
    assert found["metric"] == "accuracy"
    assert found["pytorch"] == found["onnx"] == pytest.approx(1 - 1 / words)


def test_labels_of_another_kind_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = write(tmp_path / "dev.jsonl", [{"text": "a", "label": "good"}])
    model = model_like(Session(make_folder("regression").path, threads=1))
    with pytest.raises(LosparseError, match=r"dev.jsonl.*'label' must be a finite number, got 'good'"):
        read_labelled(data, model)
