"""Multi-label models and cross-encoders, from checkpoint to answers, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from losparse.cli.main import main
from losparse_runtime import Session

from ..runtime.conftest import MakeFolder, make_folder
from .conftest import Command, edit_json, make_model, make_tokenizer

__all__ = ["make_folder"]  # a fixture of the runtime's tests

QUERY, TEXTS = "a great film", ["the film was great", "a dull plot", "it was awful and cold", "lovely"]
WIDE = {"initializer_range": 0.5}  # outputs that differ


def save(folder: Path, **overrides: object) -> Path:
    make_model(**WIDE, **overrides).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def logits(source: Path, texts: list[str], pairs: list[str] | None = None) -> torch.Tensor:
    """What PyTorch says of texts."""
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.no_grad():
        found: torch.Tensor = model(
            **AutoTokenizer.from_pretrained(source)(texts, pairs, padding=True, return_tensors="pt")
        ).logits
    return found


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of one output, and its export."""
    folder = tmp_path_factory.mktemp("cross-encoder")
    source = save(folder / "model", num_labels=1)
    assert main(["export", str(source), str(folder / "out")]) == 0
    return source, folder / "out"


def cells(printed: str) -> list[list[str]]:
    return [line.split(None, 2) for line in printed.splitlines()[1:]]


def test_a_cross_encoder_ranks(losparse: Command, cross_encoder: tuple[Path, Path]) -> None:
    source, out = cross_encoder
    session = Session(out, threads=1)
    assert session.task == "regression"
    expected = torch.sigmoid(logits(source, [QUERY] * 4, TEXTS)[:, 0]).tolist()
    ranked = session.rank(QUERY, TEXTS, batch_size=3)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    assert [each.score for each in ranked] == pytest.approx([expected[each.index] for each in ranked], abs=1e-5)

    printed = losparse("run", out, "--query", QUERY, *TEXTS)
    assert (printed.code, printed.err) == (0, "")
    assert cells(printed.out) == [[f"{each.score:.4f}", str(each.index + 1), each.text] for each in ranked]
    assert cells(losparse("run", out, "--query", QUERY, *TEXTS, "--batch-size", 1).out) == cells(printed.out)


def test_a_cross_encoder_scores_pairs_as_before(losparse: Command, cross_encoder: tuple[Path, Path]) -> None:
    source, out = cross_encoder
    printed = losparse("run", out, "a great plot", "it was cold", "--pair", "a", "--pair", "b")
    raw = logits(source, ["a great plot", "it was cold"], ["a", "b"])[:, 0].tolist()
    assert printed.out.splitlines()[0].split() == ["score", "text"]
    assert [float(row[0]) for row in cells(printed.out)] == pytest.approx(raw, abs=1e-4)


def test_a_cross_encoder_is_what_it_was_made_of(losparse: Command, cross_encoder: tuple[Path, Path]) -> None:
    source, out = cross_encoder
    assert "passed" in losparse("check", out, "--reference", source).out
    edit_json(out / "losparse.json", task="text-classification")  # as exporters wrote it before
    try:
        session = Session(out, threads=1)
        assert (session.task, len(session.rank(QUERY, TEXTS)), len(session.classify(TEXTS))) == ("regression", 4, 4)
        done = losparse("check", out, "--reference", source)
        assert done.code == 1 and "differs: losparse.json: task is" in done.out  # the model file says another
        assert done.out.count("differs: ") == 1
    finally:
        edit_json(out / "losparse.json", task="regression")


def test_options_of_other_tasks_are_refused(
    losparse: Command, cross_encoder: tuple[Path, Path], make_folder: MakeFolder
) -> None:
    out = cross_encoder[1]
    losparse("run", out, "--query", "a", "b", "--pair", "c").refused("--pair does not go with --query; leave one")
    losparse("run", out, "a", "--question", "b").refused("--question is for question-answering; ", "does regression")
    losparse("run", make_folder().path, "a", "--query", "b").refused("--query is for regression; ", "does text-class")
    tagger = make_folder("token-classification", name="tagger").path
    losparse("run", tagger, "a", "--pair", "b").refused(
        "--pair is for text-classification, multi-label-classification, regression; ", "does token-classification"
    )


def test_several_classes_from_checkpoint_to_answers(losparse: Command, tmp_path: Path) -> None:
    names = {0: "warm", 1: "cold", 2: "long"}
    source = save(tmp_path / "model", id2label=names, problem_type="multi_label_classification")
    model = AutoModelForSequenceClassification.from_pretrained(source)
    middle = logits(source, TEXTS).mean(0)  # each class is right for some texts
    model.classifier.bias.data -= middle
    model.save_pretrained(source)
    probabilities = torch.sigmoid(logits(source, TEXTS)).tolist()
    likely = [[names[i] for i in range(3) if row[i] >= 0.5] for row in probabilities]
    assert len(set(map(tuple, likely))) > 1 and max(map(len, likely)) > 1
    data = tmp_path / "dev.jsonl"
    data.write_text(
        "".join(json.dumps({"text": t, "labels": each}) + "\n" for t, each in zip(TEXTS, likely, strict=True))
    )
    out = tmp_path / "out"
    done = losparse("export", source, out, "--data", data)
    assert done.code == 0 and done.out.startswith(f"{out}: multi-label-classification, fp32")
    assert "f1 on 4 texts: PyTorch 1.0000, ONNX 1.0000 (+0.0000 +- 0.0000)" in done.out
    assert json.loads((out / "losparse.json").read_text())["task"] == "multi-label-classification"

    found = Session(out, threads=1).classify(TEXTS)
    for each, row, wanted in zip(found, probabilities, likely, strict=True):
        assert each.scores == pytest.approx({names[i]: row[i] for i in range(3)}, abs=1e-5)
        assert set(each.labels()) == set(wanted)
    printed = losparse("run", out, *TEXTS)
    assert printed.out.splitlines()[0].split() == ["labels", "scores", "text"]
    for line, each in zip(printed.out.splitlines()[1:], found, strict=True):
        assert line.startswith(", ".join(each.labels()) or "-")
    assert losparse("check", out, "--reference", source).code == 0
