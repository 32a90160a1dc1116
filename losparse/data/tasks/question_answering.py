"""The answer to a question: a span of its context, or none.

question    question
context     context
answers     answers: {"text": [..], "answer_start": [..]}             (jsonl)
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from losparse_runtime.contract.tensors import TOKENS
from losparse_runtime.tasks.scoring import SpanLogits, best_span, no_answer_score

from ...errors import LosparseError, shown
from ..columns import Columns, find_column, texts_of, values_of
from ..examples import Examples
from ..metrics import Metric, Prediction
from ..tables import Table
from ..tokens import Tokenized, model_inputs
from .base import Collator, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STRIDE_SHARE = 1 / 3
"""Overlap of two windows of a long context, as a share of the maximum length."""


class Answer(NamedTuple):
    """Answer to a question: the characters `context[start : start + len(text)]`; empty text = not answerable."""

    text: str
    start: int


class Window(NamedTuple):
    """What a row is, beside its tokens: one window of the context of one question.

    Attributes:
        question: number of the example.
        start: the first token of the row that is the context's.
        stop: one past the last one.
        answerable: 1 if the question has an answer, in this window or elsewhere; else 0.
    """

    question: int
    start: int
    stop: int
    answerable: int


class QuestionAnswering(TaskData):
    """Rows are windows: a context that is too long gives several, which overlap.

    start_positions, end_positions = first and last token of the answer, 0 and 0 where it is not in the window.
    """

    label_keys = ("start_positions", "end_positions")
    notes = "which of their tokens are the context's"

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        """Return questions and contexts with the first answer to each; see `TaskData.read`."""
        question = find_column(table, columns.text, ("question",), "text")
        context = find_column(table, columns.pair, ("context",), "pair")
        answers = find_column(table, columns.label, ("answers",), "label")
        texts, pairs = texts_of(table, question), texts_of(table, context)
        labels = [
            _answer(table, row, answers, value, pairs[row]) for row, value in enumerate(values_of(table, answers))
        ]
        return Examples(texts, pairs, labels, ())

    def read_texts(self, table: Table, columns: Columns) -> tuple[list[str], list[str] | None]:
        """Return questions and contexts; see `TaskData.read_texts`."""
        return super().read_texts(table, Columns(columns.text or "question", columns.pair or "context"))

    def rows(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, first: int) -> Tokenized:
        """Return the windows of some questions; see `TaskData.rows`.

        Raises:
            LosparseError: the longest question leaves no room for a context.
        """
        stride = _stride(examples, tokenizer, max_length)
        encoded = tokenizer(
            examples.texts,
            examples.pairs,
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        sources = encoded["overflow_to_sample_mapping"]
        rows, windows = [], []
        for row, inputs in enumerate(model_inputs(encoded, len(sources))):
            answer, context = examples.labels[sources[row]], [part == 1 for part in encoded.sequence_ids(row)]
            start, end = answer_span(encoded["offset_mapping"][row], context, answer)
            rows.append({**inputs, "start_positions": start, "end_positions": end})
            begin = context.index(True) if any(context) else 0  # the context's tokens stand together
            windows.append(Window(first + sources[row], begin, begin + sum(context), int(bool(answer.text))))
        return Tokenized(rows, sum(count > 1 for count in Counter(sources).values()), windows)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return what pads behind the tokens: labels are places in a row, which padding in front would move."""
        if tokenizer.padding_side != "right":
            tokenizer = copy.copy(tokenizer)
            tokenizer.padding_side = "right"
        return super().collator(tokenizer)

    def metric(self) -> Metric:
        """Return the share of questions that are answered exactly, as a session answers them."""
        return spans


def answer_span(offsets: Sequence[tuple[int, int]], context: Sequence[bool], answer: Answer) -> tuple[int, int]:
    """Return the first and the last token of the answer, or (0, 0) if it is not wholly in this window."""
    if not answer.text:
        return 0, 0
    stop = answer.start + len(answer.text)
    inside = [
        token
        for token, (start, end) in enumerate(offsets)
        if context[token] and start < stop and end > answer.start and end > start
    ]
    if not inside or offsets[inside[0]][0] > answer.start or offsets[inside[-1]][1] < stop:
        return 0, 0
    return inside[0], inside[-1]


def spans(prediction: Prediction) -> dict[str, float]:
    """Return the share of questions that are answered exactly, by the answers that a served model gives.

    The answer is `best_span` over all windows of the question's context, as `Session.answer` finds it. Where some
    questions have none, there may be none, as `Session.answer(may_be_none=True)` says it. It is right if it is the
    labelled span of its window, or none where the question has none; so an answer that no window holds whole, or that
    is longer than a session looks for, is never right.

    Args:
        prediction: predictions are start and end logits, (rows, tokens) each; labels are first token and last token,
            (rows,) each, and the `Window` of every row, (rows, 4).
    """
    starts, ends = (np.asarray(logits, np.float64) for logits in prediction.predictions[:2])
    first, last, windows_of = prediction.label_ids[:3]
    questions, begins, stops, answerable = np.asarray(windows_of).T
    may_be_none = not answerable.all()
    places = np.arange(starts.shape[1])
    right = []
    order = np.argsort(questions, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(questions[order])) + 1):
        windows = [SpanLogits(starts[row], ends[row], (places >= begins[row]) & (places < stops[row])) for row in rows]
        span = best_span(windows)
        if span is None or (may_be_none and span.score <= no_answer_score(windows)):
            right.append(not answerable[rows[0]])
        else:
            row = rows[span.window]
            right.append(bool(answerable[row]) and (span.first, span.last) == (first[row], last[row]))
    return {"accuracy": float(np.mean(right))}


def _stride(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Return how many tokens two windows share, if that leaves room for a context beside every question."""
    questions = tokenizer(examples.texts, add_special_tokens=False)[TOKENS]
    stride = int(max_length * STRIDE_SHARE)
    longest = max(len(ids) for ids in questions)
    if longest + stride >= max_length - tokenizer.num_special_tokens_to_add(pair=True):
        raise LosparseError(
            f"max_length must leave room for a context beside the longest question ({longest} tokens), got {max_length}"
        )
    return stride


def _answer(table: Table, row: int, column: str, value: Any, context: str) -> Answer:
    """Return the first answer, checked against the context."""
    try:
        texts, starts = value["text"], value["answer_start"]
        if len(texts) != len(starts):
            raise TypeError
        text, start = (str(texts[0]), int(starts[0])) if len(texts) else ("", 0)
    except (TypeError, KeyError, ValueError, IndexError):
        shape = '{"text": ["..."], "answer_start": [0]}'
        raise LosparseError(f"{table.where(row)}: '{column}' must be {shape}, got {shown(value)}") from None
    if start < 0 or context[start : start + len(text)] != text:
        found = shown(context[max(start, 0) : max(start, 0) + len(text)])
        raise LosparseError(f"{table.where(row)}: answer {shown(text)} is not at {start} of its context, {found} is")
    return Answer(text, start)
