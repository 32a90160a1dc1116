"""`losparse compress` for any number of classes a text, and for scores of pairs, to the checkpoint that opens again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from .conftest import FEW, make_model, make_texts, make_tokenizer, name_classes, nothing_written

MULTI = ("--task", "multi-label-classification")


@pytest.fixture
def genres(tmp_path: Path) -> Path:
    """Texts of the classes good and bad, each, both or none of them, as lists."""
    rows = []
    for number, (text, label) in enumerate(make_texts(64, 0)):
        rows.append({"text": text, "labels": [label] if number % 4 < 2 else ["good", "bad"] if number % 4 == 2 else []})
    file = tmp_path / "genres.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def settings(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "config.json").read_text())
    return found


def test_any_number_of_classes(compress_into: Any, tmp_path: Path, genres: Path) -> None:
    done = compress_into(*MULTI, *FEW, train=genres, validation=None)
    assert done.code == 0, done.err
    names = [line.split()[1] for line in done.out.splitlines() if line.startswith("validation ")]
    assert names == ["f1:", "f1_macro:", "accuracy:", "loss:"]
    config = settings(tmp_path)
    assert config["problem_type"] == "multi_label_classification"
    assert (config["id2label"], config["label2id"]) == ({"0": "bad", "1": "good"}, {"bad": 0, "good": 1})
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.problem_type == "multi_label_classification"
    output = model(torch.tensor([[2, 5, 3]]), labels=torch.tensor([[1.0, 1.0]]))
    assert output.logits.shape == (1, 2) and torch.isfinite(output.loss)


def test_a_teacher_of_any_number_of_classes(compress_into: Any, tmp_path: Path, genres: Path) -> None:
    make_model(problem_type="multi_label_classification").save_pretrained(tmp_path / "teacher")
    make_tokenizer().save_pretrained(tmp_path / "teacher")
    name_classes(tmp_path / "teacher", "good", "bad")  # its order is taken, and it is not sorted
    teach = (*MULTI, *FEW, "--teacher", tmp_path / "teacher", "--distill-weight", 0.5)
    done = compress_into(*teach, train=genres, validation=genres)
    assert done.code == 0, done.err
    assert settings(tmp_path)["id2label"] == {"0": "good", "1": "bad"}


def test_a_classifier_of_one_class_a_text_is_not_taken_for_several(
    compress_into: Any, tmp_path: Path, genres: Path
) -> None:
    make_model(problem_type="single_label_classification").save_pretrained(tmp_path / "single")
    make_tokenizer().save_pretrained(tmp_path / "single")
    compress_into(*MULTI, *FEW, model=tmp_path / "single", train=genres, validation=None).refused(
        "gives one class a text",
        "multi-label-classification is about any number of classes a text",
        "train it for text-classification (--task)",
        "to 'multi_label_classification'",
    )
    genres.write_text(genres.read_text().replace('"labels": []', '"labels": 7', 1))
    compress_into(*MULTI, *FEW, train=genres, validation=None).refused(
        "genres.jsonl, line 4", "list of labels", "got 7"
    )
    assert nothing_written(tmp_path)


def test_a_cross_encoder_learns_scores_of_pairs(compress_into: Any, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    texts = make_texts(64, 0)
    pairs = ((texts[number], texts[number // 2]) for number in range(64))  # of one kind about as often as not
    rows = (f"{one},{other},{float(kind == like)}\n" for (one, kind), (other, like) in pairs)
    file.write_text("sentence1,sentence2,score\n" + "".join(rows))
    done = compress_into("--task", "regression", *FEW, train=file, validation=None)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "losparse_report.json").read_text())
    assert list(report["metrics"]) == ["pearson", "spearman", "mse", "loss"]
    assert report["metrics"]["pearson"] != 0 and report["metrics"]["mse"] > 0, "scores differ"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = make_tokenizer()
    with torch.no_grad():
        pair, alone = (
            model(**tokenizer(*texts, return_tensors="pt")).logits for texts in (("film", "plot"), ("film",))
        )
    assert pair.shape == (1, 1) and model.config.problem_type == "regression"
    assert not torch.equal(pair, alone), "both texts are read"


def test_a_head_of_other_classes_is_not_thrown_away_in_silence(
    compress_into: Any, model_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name_classes(model_copy, "negative", "positive")
    file = tmp_path / "topics.csv"
    file.write_text("text,label\n" + "".join(f"{text},t{at % 7}\n" for at, (text, _) in enumerate(make_texts(70, 0))))
    done = compress_into(*FEW, model=model_copy, train=file, validation=file)
    assert done.code == 0, done.err
    line = "has the classes negative, positive, the data has 7, t0, t1, t2, t3, t4, ...; a new head is trained"
    assert [record.getMessage() for record in caplog.records] == [f"'{model_copy}' {line}"]
    report = json.loads((tmp_path / "out" / "losparse_report.json").read_text())
    assert report["replaced_head"] == f"'{model_copy}' {line}"


def test_a_head_that_is_kept_is_not_said_to_be_new(compress_into: Any, tmp_path: Path, model_copy: Path) -> None:
    name_classes(model_copy, "bad", "good")
    assert compress_into(*FEW, model=model_copy).code == 0
    assert json.loads((tmp_path / "out" / "losparse_report.json").read_text())["replaced_head"] is None
