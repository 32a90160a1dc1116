"""The span of a context that answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..contract.task import TASKS, Task
from ..contract.tensors import Arrays
from ..errors import InputError
from .base import Helper, Served, Table, Work, check_count, do, require
from .scoring import (
    ANSWER_STRIDE,
    MAX_ANSWER_TOKENS,
    SpanLogits,
    best_span,
    log_sum,
    no_answer_score,
    trimmed,
)

if TYPE_CHECKING:
    from tokenizers import Encoding

_WINDOWS_IN_A_RUN = 8


@dataclass(frozen=True)
class Answer:
    """A span of the context.

    Attributes:
        text: the span as it stands in the context, without the space around it.
        start: its first character, counted from 0.
        end: one past its last character.
        score: probability of the first token times probability of the last token, each over all context tokens; of
            "there is none" its probability against the best span alone. A
            token in several windows counts once, with its largest logit.
    """

    text: str
    start: int
    end: int
    score: float


def answer(
    session: Served,
    question: str,
    context: str,
    *,
    max_tokens: int = MAX_ANSWER_TOKENS,
    stride: int = ANSWER_STRIDE,
    may_be_none: bool = False,
) -> Answer:
    """Find the span of the context that answers the question; `scoring.best_span` says which that is.

    A context longer than the model's positions is read in overlapping windows.

    Args:
        session: of a question-answering folder.
        question: the question.
        context: the text that holds the answer.
        max_tokens: length of the longest answer, in tokens, >= 1.
        stride: overlap of the windows, in tokens, >= 0.
        may_be_none: for models that were trained on questions without an answer too: say that there is none (an empty
            text) where the model prefers that to every span. Without it there is always an answer.

    Returns:
        The span whose start and end logits have the largest sum.

    Raises:
        InputError: the folder is for another task, an argument is wrong, or the context has no tokens.
        RunError: the model failed, or its logits are not finite.
    """
    work = answer_work(session, question, context, max_tokens=max_tokens, stride=stride, may_be_none=may_be_none)
    return do(session, work, _WINDOWS_IN_A_RUN)


def answer_work(
    session: Served,
    question: str,
    context: str,
    *,
    max_tokens: int = MAX_ANSWER_TOKENS,
    stride: int = ANSWER_STRIDE,
    may_be_none: bool = False,
) -> Work[Answer]:
    """Tokenise what `answer` then runs: a row for each window over the context."""
    require(session, HELPER.name)
    check_count("max_tokens", max_tokens, 1)
    check_count("stride", stride, 0)
    encodings = session.encoder.windows(question, context, stride)
    names = TASKS[session.task].outputs

    def read(places: Sequence[int], outputs: Arrays, mask: NDArray[Any]) -> list[SpanLogits]:
        found = []
        for row, place in enumerate(places):
            real = mask[row].astype(bool)
            inside = np.array([sequence == 1 for sequence in encodings[place].sequence_ids])
            start, end = (outputs[name][row][real].astype(np.float64) for name in names)
            found.append(SpanLogits(start, end, inside))
        return found

    def collect(windows: list[SpanLogits]) -> Answer:
        return _best(context, encodings, windows, max_tokens, may_be_none)

    return Work(encodings, read, collect)


def _best(
    context: str, encodings: Sequence[Encoding], windows: list[SpanLogits], max_tokens: int, may_be_none: bool
) -> Answer:
    """Return the best span of all windows."""
    best = best_span(windows, max_tokens)
    if best is None:
        raise InputError("context must have at least one token, got none; give the text that holds the answer")
    if may_be_none and best.score <= (nothing := no_answer_score(windows)):
        return Answer("", 0, 0, float(1 / (1 + np.exp(best.score - nothing))))
    starts: dict[tuple[int, int], float] = {}  # by the place in the context: windows overlap
    ends: dict[tuple[int, int], float] = {}
    for window, encoding in zip(windows, encodings, strict=True):
        for token in np.flatnonzero(window.inside):
            for logits, found in ((window.start, starts), (window.end, ends)):
                place = encoding.offsets[token]
                found[place] = max(float(logits[token]), found.get(place, -np.inf))
    offsets = encodings[best.window].offsets
    start, end = trimmed(context, offsets[best.first][0], offsets[best.last][1])
    score = float(np.exp(best.score - log_sum(starts.values()) - log_sum(ends.values())))
    return Answer(context[start:end], start, end, score)


def _answers(session: Served, texts: Sequence[str], batch_size: int, question: str) -> list[Answer]:
    """Answer one question by each text alone; its windows are the batches."""
    return [answer(session, question, text) for text in texts]


def _table(task: Task, results: Sequence[Answer], texts: Sequence[str]) -> Table:
    return Table(("answer", "score", "start"), [(each.text, f"{each.score:.4f}", str(each.start)) for each in results])


HELPER = Helper(
    "answer",
    _answers,
    _table,
    options=("question",),
    needs="question",
    by_itself=True,
    blank="so it holds no answer",
)
