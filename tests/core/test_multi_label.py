"""Any number of classes a text: what is read, what is refused and how it is said, and that it is learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from losparse import SVD, FineTuneResult, Training, fine_tune
from losparse.data.examples import Examples, relabel, split_examples
from losparse.data.loading import load_examples, tokenize
from losparse.errors import LosparseError

from .conftest import build_bert

TASK = "multi-label-classification"


def read(path: Path, content: str, **options: Any) -> Examples:
    path.write_text(content, encoding="utf-8")
    return load_examples(path, task=TASK, **options)


def rows_of(*values: Any) -> str:
    return "".join(json.dumps({"text": "a", "labels": value}) + "\n" for value in values)


def test_lists_of_labels(tmp_path: Path) -> None:
    found = read(tmp_path / "a.jsonl", rows_of(["war", "love"], [], ["love"], [" art "], "war; art", ""))
    assert found.label_names == ("art", "love", "war"), "sorted"
    assert found.labels == [[1, 2], [], [1], [0], [0, 2], []]
    assert found.pairs is None


def test_texts_with_labels_between_semicolons(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", 'sentence1,sentence2,label\nx,y,"war;love, lost"\nz,w,\nu,v, 10 ; 9\n')
    assert (found.texts, found.pairs) == (["x", "z", "u"], ["y", "w", "v"])
    assert found.label_names == ("10", "9", "love, lost", "war")
    assert found.labels == [[2, 3], [], [0, 1]]


def test_integers_are_sorted_by_value_and_may_be_ids_of_given_names(tmp_path: Path) -> None:
    content = rows_of([10, 9], [9])
    assert read(tmp_path / "a.jsonl", content).label_names == ("9", "10")
    assert read(tmp_path / "b.jsonl", rows_of([1], [0, 1]), label_names=("love", "war")).labels == [[1], [0, 1]]


def test_one_class_is_enough_for_it_may_apply_or_not(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", rows_of(["toxic"], [])).label_names == ("toxic",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'labels' must be a list of labels, or a text with ';' between them, got None"),
        (3, "'labels' must be a list of labels, or a text with ';' between them, got 3"),
        ({"war": 1}, "'labels' must be a list of labels, or a text"),
        ([["war"]], r"'labels' must be a label \(a text or an integer\), got \['war'\]"),
        ([0.5], r"'labels' must be a label \(a text or an integer\), got 0.5"),
        ("war;;love", r"'labels' must be a label \(a text or an integer\), got ''"),
        (["war", ""], r"'labels' must be a label \(a text or an integer\), got ''"),
        (["war", "war "], r"'labels' must name a label once, got \['war', 'war '\]$"),
        (
            [1, 0, 1],
            r"'labels' must name a label once, got \[1, 0, 1\]; name those that apply, and not a 0 or 1",
        ),
        (["\ud800"], "'labels' must be whole characters"),
    ],
)
def test_what_are_no_labels_is_refused_by_line(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(LosparseError, match=rf"a\.jsonl, line 2: {message}") as error:
        read(tmp_path / "a.jsonl", rows_of(["war", "love"], value))
    assert "\n" not in str(error.value)


def test_labels_that_training_has_not_seen_are_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(LosparseError, match=r"a\.csv, line 3: label 'art' was not seen in training; .* are love, war"):
        read(tmp_path / "a.csv", "text,labels\na,war\nb,love;art\n", label_names=("love", "war"))
    for values in ([[1, 0], [0, 1]], [["war"], ["war"]]):
        with pytest.raises(LosparseError, match=r"d\.jsonl: column 'labels' names every class in every row, .* 0 or 1"):
            read(tmp_path / "d.jsonl", rows_of(*values))
    with pytest.raises(LosparseError, match=r"b\.jsonl: column 'labels' names no class in any row"):
        read(tmp_path / "b.jsonl", rows_of([], ""))
    with pytest.raises(
        LosparseError, match=r"no column called labels or label or categories or classes; .*--label-col"
    ):
        read(tmp_path / "c.csv", "text,genre\na,war\n")


def test_a_models_own_order_of_classes_is_kept(tmp_path: Path) -> None:
    found = read(tmp_path / "a.jsonl", rows_of(["war", "love"], ["love"], []))
    again = relabel(found, ("War", "Love", "art"))
    assert (again.labels, again.label_names) == ([[1, 0], [1], []], ("War", "Love", "art"))


def test_rows_have_a_number_for_each_class(tokenizer: Any) -> None:
    examples = Examples(["2 3", "4"], None, [[0, 2], []], ("x", "y", "z"))
    rows = tokenize(examples, tokenizer, task=TASK, max_length=8)
    assert [row["labels"] for row in rows] == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def counted(count: int) -> Examples:
    """Texts whose classes are which of the words 7 and 8 they hold."""
    generator = torch.Generator().manual_seed(0)
    texts, labels = [], []
    for number in range(count):
        which = [word for word in (0, 1) if number >> word & 1]
        words = torch.randint(10, 99, (6,), generator=generator).tolist() + [7 + word for word in which] * 3
        texts.append(" ".join(map(str, words)))
        labels.append(which)
    return Examples(texts, None, labels, ("seven", "eight"))


@pytest.mark.parametrize("said", [True, False], ids=["task=", "by the model"])
def test_it_is_learned(tokenizer: Any, tmp_path: Path, said: bool) -> None:
    train, held_out = (
        tokenize(part, tokenizer, task=TASK, max_length=16) for part in split_examples(counted(160), 0.25)
    )
    model = build_bert(problem_type="multi_label_classification")
    training = Training(max_steps=60, learning_rate=1e-2, batch_size=16, freeze_embeddings=False)
    result: FineTuneResult = fine_tune(
        model,
        tokenizer,
        train,
        held_out,
        training,
        output_dir=tmp_path,
        task=TASK if said else None,
        method=SVD(keep=0.6) if said else None,
        quiet=True,
    )
    assert list(result.metrics) == ["f1", "f1_macro", "accuracy", "loss"]
    assert result.metrics["f1"] > 0.9 and result.metrics["f1_macro"] > 0.9, "the words are easy to see"
    with torch.no_grad():
        logits = model(torch.tensor([held_out[0]["input_ids"]])).logits
    assert logits.shape == (1, 2) and model.config.problem_type == "multi_label_classification"
