"""What a fine-tuning is measured by, from the predictions of a Hugging Face Trainer; plain numpy.

    text-classification, token-classification   accuracy, matthews
    question-answering                          accuracy: the share of questions whose answer has both ends right, read
                                                from all windows of its context (`spans`)
    regression                                  pearson, spearman, mse
    causal-lm                                   perplexity, which follows from the loss

Correlations and `matthews` are in -1..1 and 0 where they are not defined: a constant on either side tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def metrics_of(task: str) -> Callable[[Any], dict[str, float]] | None:
    """Return the Trainer's `compute_metrics` for a task; None where the loss tells everything."""
    if task == "causal-lm":
        return None
    if task == "regression":
        return regression
    return spans if task == "question-answering" else classification


def classification(prediction: Any) -> dict[str, float]:
    """Return accuracy and Matthews correlation, of texts or of labelled tokens."""
    logits, labels = _first(prediction.predictions), prediction.label_ids
    counted = labels != -100
    predicted, truth = logits.argmax(-1)[counted], labels[counted]
    return {"accuracy": float((predicted == truth).mean()), "matthews": matthews(predicted, truth)}


def spans(prediction: Any) -> dict[str, float]:
    """Return the share of questions that are answered exactly.

    The answer to a question is the span with the largest sum of start and end logit in any window of its context.
    There is none if every window prefers its first token, which labels say where a window does not hold the answer:
    if the smallest sum there is not exceeded. It is right if it is the labelled span of a window that has one, or
    none where no window has one.

    Args:
        prediction: predictions are start and end logits, (rows, tokens) each; labels are first token, last token
            and, if rows are windows, number of the question, (rows,) each. Without numbers every row is a question.

    References:
        The evaluation of SQuAD 2.0 (Rajpurkar et al., arXiv:1806.03822), its threshold for "no answer" at 0.
    """
    starts, ends = (np.asarray(logits, np.float64) for logits in prediction.predictions[:2])
    first, last = prediction.label_ids[:2]
    questions = prediction.label_ids[2] if len(prediction.label_ids) > 2 else np.arange(len(first))
    nothing = starts[:, 0] + ends[:, 0]
    begins = np.maximum.accumulate(starts[:, 1:], axis=1)  # the best start up to each token
    sums = begins + ends[:, 1:]
    stop = sums.argmax(axis=1)
    rows = np.arange(len(stop))
    begin = (starts[:, 1:] == begins[rows, stop][:, None]).argmax(axis=1)
    exact = (begin + 1 == first) & (stop + 1 == last)
    right = []
    order = np.argsort(questions, kind="stable")
    for windows in np.split(order, np.flatnonzero(np.diff(questions[order])) + 1):
        best = windows[sums[windows, stop[windows]].argmax()]
        answered = sums[best, stop[best]] > nothing[windows].min()
        right.append(exact[best] if answered else not first[windows].any())
    return {"accuracy": float(np.mean(right))}


def regression(prediction: Any) -> dict[str, float]:
    """Return both correlations and the mean squared error, in the unit of the labels squared."""
    predicted = _first(prediction.predictions).astype(np.float64).reshape(-1)
    truth = prediction.label_ids.astype(np.float64).reshape(-1)
    return {
        "pearson": pearson(predicted, truth),
        "spearman": spearman(predicted, truth),
        "mse": float(np.square(predicted - truth).mean()),
    }


def perplexity(loss: float) -> float:
    """Return the perplexity of a mean loss in nats per token; beyond the range of a float it is the largest one."""
    return math.exp(min(loss, 709.0))  # exp(710) overflows, and JSON has no infinity


def matthews(predicted: Array, truth: Array) -> float:
    """Return Matthews' correlation of class ids, of any number of classes.

    Args:
        predicted: class ids; (rows,).
        truth: class ids; (rows,).

    References:
        Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", eq. 8, by
        counts: (right * rows - sum p_k t_k) / sqrt((rows^2 - sum p_k^2)(rows^2 - sum t_k^2)).
    """
    classes = np.unique(np.concatenate([predicted, truth]))
    p, t = (np.array([(ids == each).sum() for each in classes], np.float64) for ids in (predicted, truth))
    rows, right = float(len(truth)), float((predicted == truth).sum())
    spread = (rows**2 - (p @ p)) * (rows**2 - (t @ t))
    return float((right * rows - p @ t) / math.sqrt(spread)) if spread > 0 else 0.0


def pearson(one: Array, other: Array) -> float:
    """Return the linear correlation of two lists of numbers; (rows,) each."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    return float(np.clip((one @ other) / (np.linalg.norm(one) * np.linalg.norm(other)), -1.0, 1.0))


def spearman(one: Array, other: Array) -> float:
    """Return the correlation of the ranks of two lists of numbers; equal numbers share their mean rank."""
    return pearson(_ranks(one), _ranks(other))


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Array = last - (counts - 1) / 2
    return mean[place.reshape(-1)]


def _first(predictions: Any) -> Array:
    """Return the logits; some models give more beside them."""
    result: Array = predictions[0] if isinstance(predictions, tuple) else predictions
    return result
