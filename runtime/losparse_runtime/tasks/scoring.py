"""From a model's raw outputs to scores: pooling, probabilities, the best span. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.task import Labels

Array = NDArray[Any]

MAX_ANSWER_TOKENS = 30
"""Tokens in the longest answer that is looked for, where nobody says otherwise."""

ANSWER_STRIDE = 128
"""Tokens of overlap between two windows of a context that is too long for one, where nobody says otherwise."""


def pool(hidden: Array, mask: Array, pooling: str, *, prompt: int = 0, normalize: bool = False) -> Array:
    """Turn the vectors of tokens into one a text, under the names of sentence-transformers.

    "cls" takes the first, "lasttoken" the last, "max" the largest of every feature, "mean" the mean,
    "mean_sqrt_len_tokens" the sum over the square root of the number of tokens, "weightedmean" a mean in which the
    n-th token counts n times. Several are joined by "+", and their vectors laid end to end.

    Args:
        hidden: (batch, sequence, hidden).
        mask: (batch, sequence); 1 at real tokens, each text's side by side.
        pooling: one of `POOLINGS`, or several joined by "+".
        prompt: tokens at the start of each text that are left out; fewer than the text has.
        normalize: scale the vectors to length 1; one of zeros stays so.

    Returns:
        (batch, hidden x number of poolings), of the type of `hidden`.
    """
    places = np.arange(mask.shape[1]) - mask.argmax(axis=1)[:, None]  # counted from the first real token
    kept = mask * (places >= prompt)
    vectors = [_pool(hidden, kept, places, name) for name in pooling.split("+")]
    pooled: Array = np.concatenate(vectors, axis=1).astype(hidden.dtype, copy=False)
    if normalize:
        pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), np.float32(1e-12))
    return pooled


def _pool(hidden: Array, kept: Array, places: Array, pooling: str) -> Array:
    if pooling in ("cls", "lasttoken"):
        place = kept.argmax(axis=1) if pooling == "cls" else kept.shape[1] - 1 - kept[:, ::-1].argmax(axis=1)
        one: Array = hidden[np.arange(len(hidden)), place]
        return one
    if pooling == "max":
        largest: Array = np.where(kept[:, :, None].astype(bool), hidden, -np.inf).max(axis=1)
        return largest
    weights = (kept * (places + 1) if pooling == "weightedmean" else kept)[:, :, None].astype(hidden.dtype)
    count = weights.sum(axis=1)
    mean: Array = (hidden * weights).sum(axis=1) / (np.sqrt(count) if pooling == "mean_sqrt_len_tokens" else count)
    return mean


def class_scores(logits: Array, labels: Labels) -> Array:
    """Logits to scores: probabilities, together or each by itself; numbers are scores as they are.

    Args:
        logits: (batch, classes).
        labels: what the task's examples are labelled with.

    Returns:
        (batch, classes). The logit of a class that is alone is left as it is where one class must be right.
    """
    if labels == "classes":
        return sigmoid(logits)
    if labels == "number" or logits.shape[-1] == 1:
        return logits
    return softmax(logits)


def sigmoid(logits: Array) -> Array:
    """Probabilities of their own, in double precision; the tanh form does not overflow as exp(-x) would."""
    probabilities: Array = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    return probabilities


def _identity(logits: Array) -> Array:
    return logits


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"Identity": _identity, "Sigmoid": sigmoid, "Tanh": np.tanh}
"""What can stand between an output and a score, by the names of torch.nn. None lowers what was higher."""


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis, in double precision so that they sum to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def log_sum(logits: Iterable[float]) -> float:
    """log(sum(exp(x))) over all logits."""
    values = np.fromiter(logits, np.float64)
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))


@dataclass(frozen=True)
class SpanLogits:
    """What a question-answering model says of one window of a context, and which of its tokens may be an answer.

    Attributes:
        start: logits of an answer that starts here; (tokens,), without padding or with.
        end: logits of an answer that ends here; (tokens,).
        inside: which tokens are the context's: neither the question's, nor special ones, nor padding; (tokens,) bool.
    """

    start: Array
    end: Array
    inside: Array


@dataclass(frozen=True)
class Span:
    """An answer, by its place in the windows of its context.

    Attributes:
        window: number of the window.
        first: its first token in that window.
        last: its last token, not one past it.
        score: sum of its start and end logit.
    """

    window: int
    first: int
    last: int
    score: float


def best_span(windows: Sequence[SpanLogits], max_tokens: int = MAX_ANSWER_TOKENS) -> Span | None:
    """Find the answer in the windows of one context: the one definition for serving and for measuring accuracy.

    It is the span with the largest start[first] + end[last], both tokens of the context and first <= last < first +
    max_tokens; of equal ones the first window's, the one that begins first, the shortest.

    Args:
        windows: of one question and its context.
        max_tokens: length of the longest answer, >= 1.

    Returns:
        The span; None where no window holds a token of the context.
    """
    best: Span | None = None
    for number, window in enumerate(windows):
        if not window.inside.any():
            continue
        start = np.where(window.inside, window.start.astype(np.float64), -np.inf)
        end = np.where(window.inside, window.end.astype(np.float64), -np.inf)
        longest = min(max_tokens, len(end))
        # Row i holds the ends that a span from token i may have: (tokens, longest), not (tokens, tokens).
        ends = np.lib.stride_tricks.sliding_window_view(np.append(end, np.full(longest - 1, -np.inf)), longest)
        sums = start[:, None] + ends
        first, more = divmod(int(sums.argmax()), longest)
        if best is None or sums[first, more] > best.score:
            best = Span(number, first, first + more, float(sums[first, more]))
    return best


def no_answer_score(windows: Sequence[SpanLogits]) -> float:
    """What a span must exceed to be an answer, for models that were taught to say that there is none.

    Such a model points at a window's first token where the window does not hold the answer, so the smallest sum of
    both logits there counts: one window that is sure of an answer is enough.

    References:
        The evaluation of SQuAD 2.0 (Rajpurkar et al., arXiv:1806.03822), its threshold for "no answer" at 0.
    """
    return min(float(window.start[0]) + float(window.end[0]) for window in windows)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out the space at both ends of a span: tokens of bytes and of sentence pieces hold the one before a word.

    A span of space alone becomes empty, at its end.
    """
    part = text[start:end]
    return end - len(part.lstrip()), max(start + len(part.rstrip()), end - len(part.lstrip()))
