"""The accuracy of an export on answered questions is that of the answers its session gives."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from losparse_export.accuracy.measure import measure_accuracy, read_labelled
from losparse_export.accuracy.texts import TextFile
from losparse_export.opening.task_model import TaskModel
from losparse_runtime import Answer, Session
from losparse_runtime.contract.task import TASKS

from ..runtime.conftest import MakeFolder, make_folder

__all__ = ["make_folder"]  # a fixture of the runtime's tests

CONTEXTS = ["a b c d e", "f g h a", " ".join("abcdefgh"[place * 3 % 8] for place in range(40)), "b c"]
QUESTIONS = ["h", "a b", "c d", "e"]


def write(file: Path, answers: list[Answer | None]) -> Path:
    rows = [
        {
            "question": question,
            "context": context,
            "answers": {"text": [answer.text] if answer else [], "answer_start": [answer.start] if answer else []},
        }
        for question, context, answer in zip(QUESTIONS, CONTEXTS, answers, strict=True)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def model_like(session: Session, shift: float = 0.0) -> TaskModel:
    """A model that says what a session's graph says; `shift` is added where an answer may start at a first token."""

    def reference(inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = {
            name: torch.from_numpy(array)
            for name, array in session.run({name: tensor.numpy() for name, tensor in inputs.items()}).items()
        }
        outputs["start_logits"][:, 0] += shift
        return outputs

    config = SimpleNamespace(num_labels=2)
    made = SimpleNamespace(model=SimpleNamespace(config=config), task=TASKS["question-answering"], reference=reference)
    return cast(TaskModel, made)


def test_accuracy_is_that_of_the_answers_given(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("question-answering").path
    session = Session(folder, threads=1)
    answers = [session.answer(question, context) for question, context in zip(QUESTIONS, CONTEXTS, strict=True)]
    # the last one is labelled with a word that is not the answer
    wrong = next(place for place in (0, 2) if (place, place + 1) != (answers[3].start, answers[3].end))
    labels = [*answers[:3], Answer(CONTEXTS[3][wrong], wrong, wrong + 1, 1.0)]
    # every question has an answer, so what a model says of there being none changes nothing
    model = model_like(session, shift=1e6)
    labelled = read_labelled(TextFile(write(tmp_path / "dev.jsonl", labels)), model)
    assert measure_accuracy(model, folder, labelled) == {
        "file": "dev.jsonl",
        "texts": 4,
        "metric": "accuracy",
        "pytorch": pytest.approx(0.75),
        "onnx": pytest.approx(0.75),
        # sqrt(0.75 * 0.25 / 4), of 300 draws: four times the 4.1 % that they are certain to
        "error": pytest.approx(0.2165, rel=0.165),
        "differences": {"pytorch": {"delta": 0.0, "error": 0.0}},
        "metrics": {"accuracy": {"pytorch": pytest.approx(0.75), "onnx": pytest.approx(0.75)}},
    }


def test_there_may_be_none_where_a_question_has_none(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("question-answering").path
    session = Session(folder, threads=1)
    given = [
        session.answer(question, context, may_be_none=True)
        for question, context in zip(QUESTIONS, CONTEXTS, strict=True)
    ]
    labels = [answer if answer.text else None for answer in given]
    labels[0] = None
    model = model_like(session, shift=1e6)  # it always says that there is none
    labelled = read_labelled(TextFile(write(tmp_path / "dev.jsonl", labels)), model)
    found = measure_accuracy(model, folder, labelled)
    assert found["onnx"] == pytest.approx(0.75 if given[0].text else 1.0)
    assert found["pytorch"] == pytest.approx(labels.count(None) / 4)
