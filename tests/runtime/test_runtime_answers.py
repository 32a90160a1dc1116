"""Question answering: which span is the answer, and that training's metric and a session mean the same one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from losparse.data.examples import Examples
from losparse.data.loading import tokenize
from losparse.data.tasks.question_answering import Answer as Label
from losparse.data.tasks.question_answering import spans
from losparse_runtime import Answer, Session
from losparse_runtime.tasks.scoring import Span, SpanLogits, best_span

from .conftest import Answering

MakeFolder = Callable[..., Any]
VOCABULARY = "abcdefgh"


def window(start: Any, end: Any, inside: Any = None) -> SpanLogits:
    inside = np.ones(len(start), bool) if inside is None else np.array(inside, bool)
    return SpanLogits(np.array(start, np.float32), np.array(end, np.float32), inside)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_tokens", [1, 3, 100])
def test_the_best_span_is_the_best_of_all(seed: int, max_tokens: int) -> None:
    draw = np.random.default_rng(seed)
    # small integers: many spans are equal, and the earliest, then the shortest, is taken
    windows = [
        window(draw.integers(0, 3, 9), draw.integers(0, 3, 9), draw.integers(0, 2, 9) | [0] * 8 + [1]) for _ in range(3)
    ]
    legal = [
        Span(number, i, j, float(each.start[i] + each.end[j]))
        for number, each in enumerate(windows)
        for i, j in itertools.product(range(9), repeat=2)
        if each.inside[i] and each.inside[j] and i <= j < i + max_tokens
    ]
    assert best_span(windows, max_tokens) == max(legal, key=lambda span: span.score)


def test_no_token_of_a_context_is_no_span() -> None:
    assert best_span([window([1, 2], [1, 2], [0, 0])]) is None
    assert best_span([]) is None


def test_a_long_row_needs_no_square_of_memory() -> None:
    import tracemalloc

    logits = np.random.default_rng(0).normal(size=8192)
    tracemalloc.start()
    best_span([window(logits, logits)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6  # a square of doubles has 537 MB


def test_an_answer_may_be_none(make_folder: MakeFolder) -> None:
    def run(inputs: Any) -> Any:
        logits = np.zeros(inputs["input_ids"].shape, np.float32)
        logits[:, 0], logits[:, 4] = 3.0, 1.0  # [CLS] a [SEP] b c d [SEP]
        return {"start_logits": logits, "end_logits": logits}

    session = Answering(make_folder("question-answering").path, run)
    assert session.answer("a", "b c d").text == "c", "there is always one, unless it is said otherwise"
    none = session.answer("a", "b c d", may_be_none=True)
    assert none == Answer("", 0, 0, pytest.approx(1 / (1 + np.exp(2.0 - 6.0))))


@pytest.mark.parametrize("seed", range(6))
def test_the_metric_counts_what_a_session_answers(make_folder: MakeFolder, seed: int) -> None:
    """On the same windows, question by question, padding included."""
    folder = make_folder("question-answering", types=False, seed=seed)
    session = Session(folder.path, threads=1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder.path / "tokenizer.json"), pad_token="[PAD]")
    draw = np.random.default_rng(seed)
    contexts = [" ".join(draw.choice(list(VOCABULARY), size)) for size in (3, 5, 8, 4, 6, 7)]
    questions = [" ".join(draw.choice(list(VOCABULARY), 1 + number % 3)) for number in range(6)]
    answers = [session.answer(question, text) for question, text in zip(questions, contexts, strict=True)]
    # every second label is the session's own answer, the others are one word that is not
    labels = [
        Label(answer.text, answer.start) if number % 2 else Label(*another_word(text, answer))
        for number, (text, answer) in enumerate(zip(contexts, answers, strict=True))
    ]
    rows = tokenize(Examples(questions, contexts, labels, ()), tokenizer, task="question-answering", max_length=16)
    assert rows.notes is not None and len(rows) == 6
    batch = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="np")
    names = "input_ids", "attention_mask"
    outputs = session.run({name: batch[name].astype(np.int64) for name in names})
    positions = [np.array([row[name] for row in rows]) for name in ("start_positions", "end_positions")]
    found = SimpleNamespace(
        predictions=(outputs["start_logits"], outputs["end_logits"]), label_ids=(*positions, np.array(rows.notes))
    )
    assert spans(found) == {"accuracy": 0.5}


def another_word(text: str, answer: Answer) -> tuple[str, int]:
    place = next(p for p in range(0, len(text), 2) if (p, p + 1) != (answer.start, answer.end))
    return text[place], place
