"""Regression and causal language models: what is read, how it is tokenised, and that both learn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

from losparse import SVD, LoSparse, Training, fine_tune
from losparse.data.examples import Examples
from losparse.data.loading import load_examples, load_texts, tokenize
from losparse.errors import LosparseError
from losparse.training.opening import fit_padding

from .conftest import build_bert, toy_items

TRAINING = Training(max_steps=40, learning_rate=1e-2, batch_size=8, freeze_embeddings=False)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


# Regression


def test_numbers_are_read_from_text_and_json(tmp_path: Path):
    table = "sentence1,sentence2,score\na,b,4.5\nc,d,-1e-1\ne,f, 3\n"
    examples = load_examples(write(tmp_path / "a.csv", table), task="regression")
    assert (examples.texts, examples.pairs) == (["a", "c", "e"], ["b", "d", "f"])
    assert (examples.labels, examples.label_names) == ([4.5, -0.1, 3.0], ())
    rows = "".join(json.dumps({"text": "a", "label": value}) + "\n" for value in (1, 2.5, "0.5"))
    assert load_examples(write(tmp_path / "a.jsonl", rows), task="regression").labels == [1.0, 2.5, 0.5]


@pytest.mark.parametrize(
    "value", ["nan", "inf", "1e999", "good", "1_000", "", True, None, [1.0], 10**400, float("nan")]
)
def test_what_is_no_finite_number_is_refused_by_row(tmp_path: Path, value: Any):
    rows = [{"text": "a", "label": 1.0}, {"text": "b", "label": value}]
    file = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(LosparseError, match=r"a\.jsonl, line 2: 'label' must be a finite number, got"):
        load_examples(file, task="regression")


def value_items(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Toy texts whose label is the share of id 7 among their tokens."""
    return [{**item, "labels": item["input_ids"].count(7) / 10} for item in toy_items(count, seed)]


@pytest.mark.parametrize("method", [None, LoSparse(keep=0.5, low_rank=0.1, window=2)])
def test_a_regression_learns(tokenizer, tmp_path: Path, method):
    model = build_bert(num_labels=1, problem_type="regression")
    result = fine_tune(
        model, tokenizer, value_items(128), value_items(64, 9), TRAINING, output_dir=tmp_path, method=method, quiet=True
    )
    assert result.metrics["pearson"] > 0.8, "ids of 7 are easy to count"
    assert result.metrics["spearman"] > 0.6
    assert result.metrics["mse"] == pytest.approx(result.metrics["loss"], rel=1e-3)  # the same mean, in batches


# Causal language models: texts


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("1 2\n3\n4,5\r\n6", ["1 2", "3", "4,5", "6"]),
        ("\n1 2\n3\n\n", ["1 2", "3"]),
        ("1 2\n\n3\n \r\n\n4\n", ["1 2", "3", "4"]),
        (" 1\u2028 2\x0b \n3", [" 1\u2028 2\x0b ", "3"]),
    ],
    ids=["lines", "blank lines around", "blank lines between all", "what only Python takes for a line break"],
)
def test_a_plain_text_is_a_line(tmp_path: Path, content: str, texts: list[str]):
    file = tmp_path / "a.txt"
    file.write_bytes(content.encode())
    examples = load_examples(file, task="causal-lm")
    assert examples.texts == texts
    assert (examples.pairs, examples.labels, examples.label_names) == (None, [None] * len(texts), ())
    assert load_texts(file) == (texts, None)


def test_plain_texts_that_may_have_several_lines_are_refused(tmp_path: Path):
    file = write(tmp_path / "a.txt", "\n1 2\n3\n\n \n4,5\n\n6")
    message = r"a\.txt: a \.txt must hold a text a line, got blank lines \(line 4\) and .* \(line 2\), .*as jsonl$"
    for read in (load_texts, lambda file: load_examples(file, task="causal-lm")):
        with pytest.raises(LosparseError, match=message):
            read(file)


def test_plain_texts_have_no_labels_and_are_not_empty(tmp_path: Path):
    with pytest.raises(LosparseError, match="is empty; it needs at least one text"):
        load_examples(write(tmp_path / "b.txt", " \n"), task="causal-lm")
    for task in ("text-classification", "regression"):
        with pytest.raises(LosparseError, match=r"must be a \.csv, \.tsv or \.jsonl file, got '.*a\.txt'"):
            load_examples(write(tmp_path / "a.txt", "1"), task=task)


def test_texts_come_from_tables_too_without_labels(tmp_path: Path):
    file = write(tmp_path / "a.csv", "label,text\nx,1 2\ny,3\n")
    assert load_examples(file, task="causal-lm").texts == ["1 2", "3"]
    with pytest.raises(LosparseError, match="leave out --label-column, got 'label'"):
        load_examples(file, task="causal-lm", label_column="label")
    with pytest.raises(LosparseError, match=r"line 3: 'text' must be a text that is not empty"):
        load_examples(write(tmp_path / "b.csv", "text\n1\n \n"), task="causal-lm")


def test_texts_are_one_stream_cut_into_full_rows(tokenizer):
    examples = Examples(["2 3", "4 5 99", "6 7 8"], None, [None] * 3, ())
    rows = tokenize(examples, tokenizer, task="causal-lm", max_length=4)
    # 2 3 end 4 | 5 end 6 7 | 8 end: the second text brings its own end, the rest of two is left out
    assert [row["input_ids"] for row in rows] == [[2, 3, 99, 4], [5, 99, 6, 7]]
    assert all(row["labels"] == row["input_ids"] for row in rows)
    assert rows[0]["attention_mask"] == [1, 1, 1, 1]
    assert len(tokenize(examples, tokenizer, task="causal-lm", max_length=5)) == 2, "all ten tokens"


def test_texts_that_give_no_row_are_refused(tokenizer):
    examples = Examples(["2 3"], None, [None], ())
    with pytest.raises(LosparseError, match="at most the 3 tokens of all texts together, got 4"):
        tokenize(examples, tokenizer, task="causal-lm", max_length=4)
    with pytest.raises(LosparseError, match="2 tokens or more"):
        tokenize(examples, tokenizer, task="causal-lm", max_length=1)
    tokenizer.eos_token = None
    with pytest.raises(LosparseError, match="no token that ends a text"):
        tokenize(examples, tokenizer, task="causal-lm", max_length=2)


# Causal language models: training


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 16, "vocab_size": 100}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).eval()


def counting(tokenizer) -> Any:
    """Rows of texts that count up to 30: every next token but the first of a text is sure."""
    texts = [" ".join(str(number) for number in range(start, 31)) for start in range(2, 26)]
    return tokenize(Examples(texts, None, [None] * 24, ()), tokenizer, task="causal-lm", max_length=12)


def mean_loss(model, rows) -> float:
    ids = torch.tensor([row["input_ids"] for row in rows])
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]
    return float(F.cross_entropy(logits.reshape(-1, 100), ids[:, 1:].reshape(-1)))


@pytest.mark.parametrize("method", [None, LoSparse(keep=0.6, low_rank=0.1, window=2, structure="rows"), SVD(keep=0.6)])
def test_a_causal_model_learns(tokenizer, tmp_path: Path, method):
    model, rows = gpt2(), counting(tokenizer)
    result = fine_tune(model, tokenizer, rows, rows[:7], TRAINING, output_dir=tmp_path, method=method, quiet=True)
    assert result.metrics["perplexity"] < 10, "of 100 tokens"
    # batches of 8 x 2 and what is left of them: the mean is over tokens
    assert result.metrics["loss"] == pytest.approx(mean_loss(model, rows[:7]), rel=1e-4)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(result.metrics["loss"]))


def test_accumulated_batches_of_a_causal_model_are_one_mean(tokenizer, tmp_path: Path):
    norms = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            norms.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.requires_grad]).norm()))

    rows = counting(tokenizer)[:8]
    for batch, accumulation in ((8, 1), (4, 2)):
        training = Training(max_steps=1, batch_size=batch, gradient_accumulation=accumulation, max_grad_norm=0)
        fine_tune(gpt2(), tokenizer, rows, rows, training, output_dir=tmp_path, quiet=True, callbacks=(Watch(),))
    # the same eight rows once: one mean, or the mean of two means; fp32
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_causal_student_follows_its_teacher(tokenizer, tmp_path: Path):
    rows, teacher = counting(tokenizer), gpt2()
    fine_tune(teacher, tokenizer, rows, rows, TRAINING, output_dir=tmp_path, quiet=True)
    student = gpt2()
    training = Training(
        max_steps=40, learning_rate=1e-2, batch_size=8, freeze_embeddings=False, distill_weight=1.0, distill_hidden=0.1
    )
    result = fine_tune(
        student, tokenizer, rows, rows, training, output_dir=tmp_path, teacher=teacher, method=SVD(keep=0.6), quiet=True
    )
    assert result.metrics["perplexity"] < 10, "no label was seen, only the teacher"


@pytest.mark.parametrize("written", [None, -1])
def test_a_model_that_names_no_padding_takes_that_of_the_tokenizer(tokenizer, written):
    """Negative is none: a head would look for that number, and take padding for text."""
    model = build_bert()
    model.config.pad_token_id = written
    assert fit_padding(model, tokenizer).config.pad_token_id == 0
