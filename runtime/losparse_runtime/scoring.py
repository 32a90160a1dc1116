"""From a model's raw outputs to scores: pooling, probabilities, the best span. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def pool(hidden: Array, mask: Array, pooling: str) -> Array:
    """(batch, sequence, hidden) to (batch, hidden), over the real tokens, under the names of sentence-transformers.

    "cls" takes the first, "lasttoken" the last, "max" the largest of every feature, "mean" the mean.
    """
    if pooling in ("cls", "lasttoken"):
        place = mask.argmax(axis=1) if pooling == "cls" else mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        one: Array = hidden[np.arange(len(hidden)), place]
        return one
    if pooling == "max":
        largest: Array = np.where(mask[:, :, None].astype(bool), hidden, -np.inf).max(axis=1)
        return largest.astype(hidden.dtype)
    weights = mask[:, :, None].astype(hidden.dtype)
    mean: Array = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return mean


def class_scores(logits: Array, multi_label: bool, regression: bool = False) -> Array:
    """Logits (batch, classes) to scores; of a regression, which one class is too, the values are the scores."""
    if regression or logits.shape[-1] == 1:
        return logits
    if multi_label:
        # tanh form of the sigmoid: exp(-x) would overflow for large negative logits.
        sigmoid: Array = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
        return sigmoid
    return softmax(logits)


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


def best_span(start: Array, end: Array, max_tokens: int) -> tuple[float, int, int]:
    """Largest start[i] + end[j] with i <= j < i + max_tokens, and its i and j."""
    sums = start[:, None] + end[None, :]
    legal = np.tril(np.triu(np.ones(sums.shape, bool)), max_tokens - 1)
    first, last = divmod(int(np.where(legal, sums, -np.inf).argmax()), len(end))
    return float(sums[first, last]), first, last
