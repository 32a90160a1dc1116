"""What a folder's model is for: texts in, labels, vectors, spans out.

Texts are sorted by length into batches, so that little of a batch is padding; results come in the order of the texts.
Every function refuses outputs that are not finite: a NaN has no largest class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..contract.folder import TASK_OUTPUTS
from ..contract.tensors import MASK, Arrays
from ..errors import InputError, RunError
from ..text.encoder import text_list
from .scoring import (
    ANSWER_STRIDE,
    MAX_ANSWER_TOKENS,
    SpanLogits,
    best_span,
    class_scores,
    log_sum,
    no_answer_score,
    pool,
    softmax,
    trimmed,
)

if TYPE_CHECKING:
    from tokenizers import Encoding

    from ..session import Session

_HELPERS = {
    "text-classification": "classify",
    "token-classification": "tag",
    "question-answering": "answer",
    "feature-extraction": "embed",
}

_WINDOWS_IN_A_RUN = 8


@dataclass(frozen=True)
class Classification:
    """The class of one text.

    Attributes:
        label: the class with the highest score.
        score: its score.
        scores: of every class, by label in the order of class ids: probabilities that sum to 1; independent
            probabilities where several classes can be right at once; the raw output of a regression (one class).
    """

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Tag:
    """The label of one word, or of one token.

    Attributes:
        text: the word, or the token, as it stands in the text, without the space around it.
        start: its first character, counted from 0.
        end: one past its last character.
        label: the class with the highest probability.
        score: that probability.
    """

    text: str
    start: int
    end: int
    label: str
    score: float


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


def classify(
    session: Session, texts: str | Iterable[str], batch_size: int = 32, pairs: str | Iterable[str] | None = None
) -> list[Classification]:
    """Classify texts, or text pairs.

    Args:
        session: of a text-classification folder.
        texts: the texts; a bare string is one text.
        batch_size: texts in one run, >= 1.
        pairs: the second text of each pair.

    Returns:
        One result a text, in order.

    Raises:
        InputError: the folder is for another task, or an argument is wrong.
        RunError: the model failed, or its logits are not finite.
    """
    labels = _labels(session, "text-classification")
    encodings = session.encoder.encodings(texts, pairs)
    results: dict[int, Classification] = {}
    for rows, outputs, _ in _batches(session, encodings, batch_size):
        scores = class_scores(outputs["logits"], session.config.multi_label, session.config.regression)
        for index, row in zip(rows, scores, strict=True):
            best = int(row.argmax())
            results[index] = Classification(labels[best], float(row[best]), _by_label(labels, row))
    return [results[index] for index in range(len(encodings))]


def embed(
    session: Session,
    texts: str | Iterable[str],
    batch_size: int = 32,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> NDArray[Any]:
    """Turn each text into one vector: with a prompt in front, pooled, scaled and cut as the folder's metadata says.

    Args:
        session: of a feature-extraction folder.
        texts: the texts; a bare string is one text.
        batch_size: texts in one run, >= 1.
        prompt_name: of one of the folder's prompts (`session.metadata.embedding.prompts`); its default one, or none
            where it has none.
        prompt: a text to put in front of every text instead; "" for none.

    Returns:
        float32 (texts, features), in order.

    Raises:
        InputError: the folder is for another task or records no pooling, or an argument is wrong.
        RunError: the model failed, or its outputs are not finite.
    """
    _require(session, "feature-extraction")
    metadata, settings = session.metadata, session.metadata.embedding
    if metadata.pooling is None:
        raise InputError(
            f"{session.folder}: records no pooling; use run() and pool 'last_hidden_state', or export it again"
        )
    said = settings.prompt(prompt, prompt_name)
    left_out = 0 if settings.include_prompt or not said else session.encoder.prompt_length(said)
    encodings = session.encoder.encodings([said + text for text in text_list("texts", texts)])
    empty = next((index for index, each in enumerate(encodings) if len(each.ids) <= left_out), None)
    if empty is not None:
        raise InputError(f"text {empty} has no tokens behind its prompt, which alone are pooled; leave it out")
    vectors: dict[int, NDArray[Any]] = {}
    for rows, outputs, mask in _batches(session, encodings, batch_size):
        hidden = outputs["last_hidden_state"].astype(np.float32)
        pooled = pool(hidden, mask, metadata.pooling, prompt=left_out, normalize=metadata.normalize)
        vectors.update(zip(rows, pooled[:, : settings.truncate_dim], strict=True))
    return np.stack([vectors[index] for index in range(len(encodings))])


def tag(session: Session, texts: str | Iterable[str], batch_size: int = 32, *, words: bool = True) -> list[list[Tag]]:
    """Label every word of every text.

    A word is what the tokenizer splits off before it cuts it into tokens: "Zürich", or the full stop behind it. It has
    the label of its first token, because training labels no other.

    Args:
        session: of a token-classification folder.
        texts: the texts; a bare string is one text. Longer ones are cut to the model's positions.
        batch_size: texts in one run, >= 1.
        words: False for every token by itself, for models that were trained to label all of them. Special tokens are
            left out.

    Returns:
        One list of tags a text, in order; tags in the order of the words.

    Raises:
        InputError: the folder is for another task, or an argument is wrong.
        RunError: the model failed, or its logits are not finite.
    """
    labels = _labels(session, "token-classification")
    listed = text_list("texts", texts)
    encodings = session.encoder.encodings(listed)
    results: dict[int, list[Tag]] = {}
    for rows, outputs, mask in _batches(session, encodings, batch_size):
        for index, logits, real in zip(rows, outputs["logits"], mask.astype(bool), strict=True):
            scores, text = softmax(logits[real]), listed[index]
            tags = results[index] = []
            for token, start, end in _spans(text, encodings[index], words):
                best = int(scores[token].argmax())
                tags.append(Tag(text[start:end], start, end, labels[best], float(scores[token, best])))
    return [results[index] for index in range(len(encodings))]


def _spans(text: str, encoding: Encoding, words: bool) -> list[tuple[int, int, int]]:
    """Return the first token, the first character and one past the last of every word, or of every token."""
    found: list[tuple[int, int, int]] = []
    previous = None
    for token, ((start, end), word) in enumerate(zip(encoding.offsets, encoding.word_ids, strict=True)):
        if encoding.special_tokens_mask[token]:
            continue
        first, last = trimmed(text, start, end)
        # Some tokenizers know of no words at all. Tokens of one character that takes several bytes all begin where it
        # does.
        if words and previous == word and first == start and found and start <= found[-1][2]:
            found[-1] = (*found[-1][:2], max(last, found[-1][2]))
        elif first < last:
            found.append((token, first, last))
        elif not words:
            found.append((token, start, end))  # a token of space alone
        previous = word
    return found


def answer(
    session: Session,
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
    _require(session, "question-answering")
    _check_count("max_tokens", max_tokens, 1)
    _check_count("stride", stride, 0)
    encodings = session.encoder.windows(question, context, stride)
    windows = _span_logits(session, encodings)
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


def _span_logits(session: Session, encodings: Sequence[Encoding]) -> list[SpanLogits]:
    """Run windows of a context; what is said of each, in their order and without padding."""
    found: dict[int, SpanLogits] = {}
    for rows, outputs, mask in _batches(session, encodings, _WINDOWS_IN_A_RUN):
        for row, index in enumerate(rows):
            real = mask[row].astype(bool)
            inside = np.array([sequence == 1 for sequence in encodings[index].sequence_ids])
            start, end = (outputs[name][row][real].astype(np.float64) for name in ("start_logits", "end_logits"))
            found[index] = SpanLogits(start, end, inside)
    return [found[index] for index in range(len(encodings))]


def _batches(
    session: Session, encodings: Sequence[Encoding], batch_size: int
) -> Iterator[tuple[list[int], Arrays, NDArray[Any]]]:
    """Run encodings, longest first; yield the places of the batch's texts, its outputs and its attention mask.

    Longest first: the largest batch comes at the start, where running out of memory costs least.
    """
    _check_count("batch_size", batch_size, 1)
    order = sorted(range(len(encodings)), key=lambda index: -len(encodings[index].ids))
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        arrays = session.encoder.arrays([encodings[index] for index in rows])
        outputs = session.run(session.feed(arrays))
        _check_finite(session, rows, outputs)
        yield rows, outputs, arrays[MASK]


def _check_finite(session: Session, rows: Sequence[int], outputs: Arrays) -> None:
    for name in TASK_OUTPUTS[session.task]:
        finite = np.isfinite(outputs[name]).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            worst = rows[int(finite.argmin())]
            raise RunError(
                f"{session.folder}: output {name!r} is not finite (NaN or Inf) for text {worst}; "
                "compare the folder with its source: `losparse check`"
            )


def _by_label(labels: Sequence[str], row: NDArray[Any]) -> dict[str, float]:
    return {label: float(value) for label, value in zip(labels, row, strict=True)}


def _require(session: Session, task: str) -> None:
    if session.task != task:
        raise InputError(
            f"{_HELPERS[task]} needs a {task} folder, {session.folder} is for {session.task}; "
            f"use {_HELPERS[session.task]}, or run for the raw outputs"
        )


def _labels(session: Session, task: str) -> tuple[str, ...]:
    _require(session, task)
    labels = session.labels
    assert labels is not None  # parse_folder refuses a classification folder without labels
    return labels


def _check_count(name: str, value: int, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise InputError(f"{name} must be a whole number >= {minimum}, got {value!r}")
