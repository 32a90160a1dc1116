"""Labels, words and answers of rows, and splitting them: what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from losparse.data.examples import Examples, relabel, split_examples
from losparse.data.loading import load_examples
from losparse.data.tasks.question_answering import Answer
from losparse.errors import LosparseError

from .conftest import Write, classify, jsonl


def test_integer_labels_are_ordered_by_value(write: Write) -> None:
    examples = classify(write("a.csv", "text,label\na,10\nb,9\nc,-1\n"))
    assert examples.label_names == ("-1", "9", "10")
    assert examples.labels == [2, 1, 0]


def test_validation_takes_the_ids_of_training(write: Write) -> None:
    path = write("a.csv", "text,label\na,y\nb,y\n")
    assert classify(path, label_names=("x", "y")).labels == [1, 1]
    with pytest.raises(LosparseError, match=r"line 2: label 'y' was not seen in training; its labels are w, x"):
        classify(path, label_names=("w", "x"))


def test_integers_are_class_ids_where_names_are_known(write: Write) -> None:
    path = write("a.csv", "text,label\na,1\nb,0\n")
    assert classify(path, label_names=("bad", "good")).labels == [1, 0]
    with pytest.raises(LosparseError, match="label '2' was not seen"):
        classify(write("b.csv", "text,label\na,1\nb,2\n"), label_names=("bad", "good"))


def test_relabel_follows_a_model_that_knows_the_labels() -> None:
    examples = Examples(["a", "b"], None, [0, 1], ("bad", "good"))
    assert relabel(examples, ("good", "fair", "bad")).labels == [2, 0]
    assert relabel(examples, ("x", "y")) is examples
    numbered = relabel(Examples(["a", "b"], None, [1, 0], ("0", "1")), ("bad", "good"))
    assert (numbered.labels, numbered.label_names) == ([1, 0], ("bad", "good"))
    tags = relabel(Examples([["a", "b"]], None, [[0, 1]], ("I", "O")), ("O", "I"))
    assert tags.labels == [[1, 0]]


def test_words_and_tags(write: Write) -> None:
    path = write("a.jsonl", jsonl({"tokens": ["a", "b"], "tags": ["O", "B"]}, {"tokens": ["c"], "tags": ["O"]}))
    examples = load_examples(path, task="token-classification")
    assert examples.texts == [["a", "b"], ["c"]]
    assert (examples.labels, examples.label_names) == ([[1, 0], [1]], ("B", "O"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": ["a"], "tags": ["O", "B"]}, ["1 words", "2 labels"]),
        ({"tokens": [], "tags": []}, ["one entry per word"]),
        ({"tokens": "a b", "tags": ["O", "B"]}, ["one entry per word", "'a b'"]),
        ({"tokens": ["a", ""], "tags": ["O", "B"]}, ["not empty"]),
    ],
)
def test_refused_words(write: Write, row: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(LosparseError) as caught:
        load_examples(write("a.jsonl", jsonl(row)), task="token-classification")
    assert "line 1" in str(caught.value) and all(word in str(caught.value) for word in words)


def squad(**changes: Any) -> dict[str, Any]:
    answers = {"text": ["Rome", "in Rome"], "answer_start": [12, 9]}
    return {"question": "where ?", "context": "it stood in Rome .", "answers": answers, **changes}


def test_questions(write: Write) -> None:
    unanswerable = squad(answers={"text": [], "answer_start": []})
    examples = load_examples(write("a.jsonl", jsonl(squad(), unanswerable)), task="question-answering")
    assert examples.labels == [Answer("Rome", 12), Answer("", 0)]
    assert examples.pairs == ["it stood in Rome ."] * 2
    assert examples.label_names == ()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"text": ["Rome"], "answer_start": [3]}, ["'Rome' is not at 3", "'stoo'"]),
        ({"text": ["Rome  stood"], "answer_start": [0]}, ["'Rome  stood' is not at 0"]),  # both spaces
        ({"text": ["Rome"], "answer_start": [-1]}, ["not at -1"]),
        ({"text": ["Rome"], "answer_start": []}, ["must be"]),
        ("Rome", ["must be", "'Rome'"]),
        ({"text": ["Rome"]}, ["must be"]),
    ],
)
def test_refused_answers(write: Write, answers: Any, words: list[str]) -> None:
    with pytest.raises(LosparseError) as caught:
        load_examples(write("a.jsonl", jsonl(squad(answers=answers))), task="question-answering")
    assert "line 1" in str(caught.value) and all(word in str(caught.value) for word in words)


def test_split_is_deterministic_and_keeps_equal_texts_together() -> None:
    texts = [f"t{i % 40}" for i in range(100)]
    examples = Examples(texts, None, [i % 2 for i in range(100)], ("a", "b"))
    rest, held_out = split_examples(examples, 0.25, seed=1)
    assert split_examples(examples, 0.25, seed=1) == (rest, held_out)
    assert split_examples(examples, 0.25, seed=2) != (rest, held_out)
    assert len(set(held_out.texts)) == 10
    assert not set(rest.texts) & set(held_out.texts)
    assert len(rest) + len(held_out) == 100


def test_split_refuses_what_cannot_be_split() -> None:
    one = Examples(["a", "a"], None, [0, 1], ("a", "b"))
    with pytest.raises(LosparseError, match="at least 2 different texts, got 1"):
        split_examples(one, 0.5)
    with pytest.raises(LosparseError, match=r"must be in \(0, 1\), got 1"):
        split_examples(Examples(["a", "b"], None, [0, 1], ("a", "b")), 1.0)


@pytest.mark.parametrize(
    ("name", "rows", "got"),
    [
        ("many.jsonl", '{"text": "a", "label": ["money", "question"]}\n', r"\['money', 'question'\]"),
        ("none.csv", "text,label\na,\n", "''"),
    ],
)
def test_several_labels_a_text_have_a_task_of_their_own(tmp_path, name, rows, got):
    (tmp_path / name).write_text(rows)
    with pytest.raises(LosparseError, match=f"got {got}; for several .* --task multi-label-classification"):
        load_examples(tmp_path / name, task="text-classification")
