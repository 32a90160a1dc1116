"""A checkpoint's perplexity is that of transformers, compressed or not, and training measures the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losparse import SVD, LosparseError, Training, compress_, evaluate, fine_tune
from losparse.data.examples import Examples
from losparse.data.loading import tokenize
from losparse.evaluation.checkpoint import open_checkpoint
from losparse.evaluation.reading import read_questions, read_texts
from losparse_runtime.evaluation.choices import Question, measure_choices

from .conftest import build_bert, build_llama

TEXTS = ["5 6 7 8 9 10", "20 21", "30 31 32 33 34 35 36 37 38 39"]


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    build_llama().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS))
    return file


def sliding(model: Any, stream: list[int], window: int, stride: int) -> tuple[float, int]:
    """Mean loss as transformers' page on perplexity computes it: labels of what was read before are -100."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(stream), stride):
        end = min(begin + window, len(stream))
        ids = torch.tensor([stream[begin:end]])
        labels = ids.clone()
        labels[:, : end - begin - (end - before)] = -100
        counted = int((labels[:, 1:] != -100).sum())
        if counted:
            with torch.no_grad():
                total += float(model(input_ids=ids, labels=labels).loss) * counted
            count += counted
        before = end
        if end == len(stream):
            break
    return total / count, count


STREAM = [token for text in TEXTS for token in (*map(int, text.split()), 99)]


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (21, 21), (10, 1)])
def test_perplexity_is_that_of_transformers(folder: Path, texts: Path, window: int, stride: int) -> None:
    found = evaluate(folder, texts, window=window, stride=stride)
    loss, counted = sliding(build_llama(), STREAM, window, stride)
    assert found.perplexity is not None and found.perplexity.counted == counted
    # fp32: rows of one run instead of one each
    assert found.perplexity.loss == pytest.approx(loss, abs=1e-5)
    assert (found.engine, found.variant, found.files) == ("pytorch", None, ("texts.txt",))
    assert found.versions["torch"] == torch.__version__


def test_a_compressed_checkpoint_is_measured_as_it_is(folder: Path, texts: Path, tokenizer: Any) -> None:
    model = build_llama()
    compress_(model, SVD(keep=0.4), ())
    small = folder.parent / "small"
    model.save_pretrained(small)
    tokenizer.save_pretrained(small)
    found = evaluate(small, texts, window=8).perplexity
    assert found is not None and found.loss == pytest.approx(sliding(model, STREAM, 8, 8)[0], abs=1e-5)
    assert found.loss != pytest.approx(sliding(build_llama(), STREAM, 8, 8)[0], abs=1e-4)


def test_training_measures_the_same(folder: Path, texts: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Held-out texts that fill their rows: what a training reports of them is what is measured afterwards."""
    rows = tokenize(Examples(TEXTS, None, [None] * 3, ()), tokenizer, task="causal-lm", max_length=7)
    assert len(rows) * 7 == len(STREAM), "nothing is left out"
    model = build_llama()
    training = Training(max_steps=3, batch_size=2, learning_rate=1e-2)
    result = fine_tune(model, tokenizer, rows, rows, training, output_dir=tmp_path / "work", quiet=True)
    model.save_pretrained(tmp_path / "trained")
    tokenizer.save_pretrained(tmp_path / "trained")
    found = evaluate(tmp_path / "trained", texts, window=7).perplexity
    assert found is not None and found.perplexity == pytest.approx(result.metrics["perplexity"], rel=1e-5)


def test_choices_are_as_likely_as_transformers_says(folder: Path) -> None:
    model = open_checkpoint(folder)
    question = Question("5 6 7", ("8 9", "20 21 22"), 0)
    found = measure_choices(model, [question])
    plain = build_llama()
    for choice, log in zip(question.choices, found.logs[0], strict=True):
        ids = torch.tensor([[5, 6, 7, *map(int, choice.split())]])
        with torch.no_grad():
            logs = F.log_softmax(plain(ids).logits[0, 2:-1], dim=-1)
        assert log == pytest.approx(float(logs[torch.arange(len(logs)), ids[0, 3:]].sum()), abs=1e-5)


def test_a_model_that_sees_what_it_predicts_is_refused(tmp_path: Path, tokenizer: Any, texts: Path) -> None:
    build_bert().save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(LosparseError, match=r"bert.*(causal-lm|lacks)"):
        evaluate(tmp_path / "bert", texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "there is nothing to measure; add --texts FILE for perplexity, or --choices FILE"),
        ({"choices": "q.jsonl", "window": 8}, "are for --texts; add that, or leave them out"),
        ({"texts": "t.csv", "whole": True}, r"--whole reads \.txt files, got 't\.csv'"),
        ({"texts": "texts.txt", "whole": True, "text_column": "a"}, "leave out --text-column, or --whole"),
        ({"texts": "nowhere.txt"}, "no data file 'nowhere.txt'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_opened(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LosparseError, match=message):
        evaluate("no such model", **arguments)


def test_an_option_of_folders_is_refused_for_a_checkpoint(folder: Path, texts: Path) -> None:
    with pytest.raises(LosparseError, match="--variant and --provider are for ONNX folders"):
        evaluate(folder, texts, variant="int8")


# Files


def test_several_files_are_one_list_of_texts(tmp_path: Path, texts: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "1\n2"}))
    assert read_texts([texts, other]) == [*TEXTS, "1\n2"]


def test_a_whole_file_is_one_text_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b" \n one \r\n\r\n two\n")
    assert read_texts([file, file], whole=True) == [" \n one \r\n\r\n two\n"] * 2
    file.write_bytes(b"a\xff")
    with pytest.raises(LosparseError, match="byte 1 is not utf-8"):
        read_texts([file], whole=True)
    file.write_text(" \n")
    with pytest.raises(LosparseError, match="is empty; it needs a text"):
        read_texts([file], whole=True)


def test_questions_come_from_lists_and_from_columns(tmp_path: Path) -> None:
    listed, columns = tmp_path / "q.jsonl", tmp_path / "q.csv"
    rows = [{"context": "a", "choices": ["b", "c"], "answer": 1}, {"context": "", "choices": ["1", "0"], "answer": "0"}]
    listed.write_text("\n".join(map(json.dumps, rows)))
    columns.write_text("context,choice0,choice1,choice2,answer\na,b,c,,c\n,1,0,,0\nx,y,z,w,2\n")
    expected = [Question("a", ("b", "c"), 1), Question("", ("1", "0"), 1)]
    assert read_questions(listed) == expected, "a text that is a choice is meant before a number"
    assert read_questions(columns) == [*expected, Question("x", ("y", "z", "w"), 2)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"context": "a", "choices": ["b", "c"], "answer": 2},
            r"line 1: 'answer' must be the text of a choice, or its",
        ),
        ({"context": "a", "choices": ["b", "c"], "answer": True}, "'answer' must be"),
        ({"context": "a", "choices": ["b", "c"]}, "add answer"),
        ({"context": "a", "choices": ["b"], "answer": 0}, "line 1: a question must have 2 choices or more"),
        ({"context": "a", "choices": "b", "answer": 0}, "line 1: 'choices' must be a list of texts"),
        ({"context": 1, "choices": ["b", "c"], "answer": 0}, "line 1: 'context' must be a text, got 1"),
        ({"context": "a", "choice": "b", "answer": 0}, "or two columns or more whose names begin with choice"),
        ({"context": "a", "choice0": "", "choice1": "b", "choice2": "c", "answer": 0}, "the empty ones last"),
        ({"context": "\ud800", "choices": ["b", "c"], "answer": 0}, "must be whole characters"),
    ],
)
def test_rows_that_are_no_questions_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(LosparseError, match=message):
        read_questions(file)


def test_numbers_are_json(folder: Path, texts: Path, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"context": "5 6", "choices": ["7", "8"], "answer": 0}))
    told = json.loads(json.dumps(evaluate(folder, texts, file, window=8).to_dict()))
    assert told["texts"]["perplexity"] == pytest.approx(math.exp(told["texts"]["loss"]))
    assert told["choices"]["questions"] == 1 and told["choices"]["file"] == "q.jsonl"
    assert np.isfinite(told["seconds"])
