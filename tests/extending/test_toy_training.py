"""A task is trained once it has an entry in `TASKS` and one in `TASK_DATA`: no other file changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from losparse import LosparseError, Recipe, Training, fine_tune
from losparse.data.columns import Columns, texts_and_pairs
from losparse.data.examples import Examples
from losparse.data.loading import load_examples, tokenize
from losparse.data.metrics import Metric, Prediction
from losparse.data.tables import Table
from losparse.data.tasks.base import TaskData
from losparse.data.tasks.registry import TASK_DATA
from losparse_export.opening.task_model import choose_task
from losparse_runtime import Session
from losparse_runtime.contract.task import REGRESSION, TASKS, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, find_task

from ..cli.conftest import FEW, Command, losparse, make_model, make_texts, make_tokenizer

__all__ = ["losparse"]  # a fixture of the command line's tests

# Whether a text is long: its label is in the text itself, so a .txt will do.
# Its models are those of text classification: neither class nor problem tell the two apart, only the name does.
LENGTH = replace(TEXT_CLASSIFICATION, name="length", metric="guessed")


def guessed(prediction: Prediction) -> dict[str, float]:
    return {"guessed": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


class Lengths(TaskData):
    plain = True

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        texts, _ = texts_and_pairs(table, columns)
        return Examples(texts, None, [int(len(text.split()) > 7) for text in texts], ("short", "long"))

    def metric(self) -> Metric:
        return guessed


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two lines that a new task adds to registries."""
    monkeypatch.setitem(TASKS, LENGTH.name, LENGTH)
    monkeypatch.setitem(TASK_DATA, LENGTH.name, Lengths())


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(text for text, _ in make_texts(64, 0)))
    return file


@pytest.mark.usefixtures("registered")
def test_a_toy_task_is_compressed_by_the_command_line(losparse: Command, tmp_path: Path, texts: Path) -> None:
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    task = ("--task", "length", "--train", texts)
    done = losparse("compress", tmp_path / "model", tmp_path / "out", *task, *FEW, "--max-steps", 2)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "losparse_report.json").read_text())
    assert (report["steps"], list(report["metrics"])) == (2, ["guessed", "loss"])
    assert report["recipe"]["task"] == "length" and "validation guessed: " in done.out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["losparse_task"] == "length"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "short", 1: "long"}


def test_a_trained_toy_task_is_exported_unasked(
    losparse: Command, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, smaller, out = (tmp_path / name for name in ("model", "smaller", "out"))
    make_model().save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    with monkeypatch.context() as patch:
        patch.setitem(TASKS, LENGTH.name, LENGTH)
        patch.setitem(TASK_DATA, LENGTH.name, Lengths())
        # Blocks alone, so that the model is still dense and can be compressed once more, without training.
        few = ("--task", "length", "--train", texts, "--max-steps", 1, "--method", "none", "--keep-layers", 1)
        assert losparse("compress", model, smaller, *few).code == 0
        assert losparse("compress", smaller, tmp_path / "svd", "--method", "svd").code == 0
        done = losparse("export", tmp_path / "svd", out)
        assert (done.code, done.out.split(",")[0]) == (0, f"{out}: length"), done.err
        assert json.loads((out / "losparse.json").read_text())["task"] == Session(out, threads=1).task == "length"
        assert "losparse_task" not in json.loads((out / "config.json").read_text())
        assert losparse("check", out, "--reference", tmp_path / "svd").code == 0
    # Where nobody registers the task.
    losparse("export", smaller, tmp_path / "none").refused("'losparse_task' must be one of", "got 'length'; register")
    # Trained for another one since.
    other = AutoModelForSequenceClassification.from_pretrained(smaller)
    tokenizer, rows = make_tokenizer(), [{"input_ids": [2, 5, 3], "labels": 1}] * 4
    training = Training(max_steps=1, batch_size=2)
    fine_tune(other, tokenizer, rows, rows, training, output_dir=tmp_path, task="text-classification", quiet=True)
    assert not hasattr(other.config, "losparse_task")


@pytest.mark.usefixtures("registered")
def test_a_name_in_the_configuration_goes_with_its_kind_of_head() -> None:
    one = "single_label_classification"
    assert find_task("BertForSequenceClassification", one, 2, named="length") is LENGTH
    assert find_task("BertOfMyOwn", named="length") is LENGTH
    assert find_task("BertForSequenceClassification", "regression", 1, named="length") is REGRESSION
    assert find_task("BertForTokenClassification", named="length") is TOKEN_CLASSIFICATION
    assert choose_task("text-classification", "BertForSequenceClassification", "m", one, 2, named="length") is (
        TEXT_CLASSIFICATION
    )
    with pytest.raises(LosparseError, match=r"m: losparse_task must be one of .*, got 'lengths'"):
        choose_task(None, "BertForSequenceClassification", "m", one, 2, named="lengths")


@pytest.mark.usefixtures("registered")
def test_tasks_of_one_head_are_told_apart_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    score = replace(REGRESSION, name="score10")
    monkeypatch.setitem(TASKS, score.name, score)
    architecture = "BertForSequenceClassification"
    for problem, outputs in (("single_label_classification", 3), (None, 3)):
        assert choose_task("length", architecture, "m", problem, outputs) is LENGTH
        assert choose_task(None, architecture, "m", problem, outputs) is TEXT_CLASSIFICATION
    for problem in ("regression", None):
        assert choose_task("score10", architecture, "m", problem, 1) is score
        assert choose_task(None, architecture, "m", problem, 1) is REGRESSION
    with pytest.raises(LosparseError, match="task must be 'multi-label-classification', got 'score10'"):
        choose_task("score10", architecture, "m", "multi_label_classification", 3)


@pytest.mark.usefixtures("registered")
def test_a_toy_task_learns_in_python(tmp_path: Path, texts: Path) -> None:
    assert Recipe.from_dict({"task": "length"}).task == "length"
    rows = tokenize(load_examples(texts, task="length"), make_tokenizer(), task=LENGTH, max_length=16)
    model = make_model()
    before = model.classifier.weight.detach().clone()
    training = Training(max_steps=2, learning_rate=1e-2, batch_size=16)
    result = fine_tune(model, make_tokenizer(), rows, rows, training, output_dir=tmp_path, task="length", quiet=True)
    assert list(result.metrics) == ["guessed", "loss"]
    assert not torch.equal(model.classifier.weight, before)


def test_without_its_entries_there_is_no_such_task(losparse: Command, tmp_path: Path, texts: Path) -> None:
    with pytest.raises(LosparseError, match=r"task must be one of text-classification, .*, got 'length'"):
        load_examples(texts, task="length")
    done = losparse("compress", tmp_path, tmp_path / "out", "--task", "length", "--train", texts)
    assert done.code == 2 and "length" in done.err
