"""What a fine-tuning is measured by, from the predictions of a Hugging Face Trainer; plain numpy.

    text-classification, token-classification   accuracy, matthews
    question-answering                          accuracy: the share of questions whose answer, the one that a session
                                                gives, has both ends right (`spans`)
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

from losparse_runtime.tasks.scoring import SpanLogits, best_span, no_answer_score

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
    """Return the share of questions that are answered exactly, by the answers that a served model gives.

    The answer is `best_span` over all windows of the question's context, as `Session.answer` finds it. Where some
    questions have none, there may be none, as `Session.answer(may_be_none=True)` says it. It is right if it is the
    labelled span of its window, or none where the question has none; so an answer that no window holds whole, or that
    is longer than a session looks for, is never right.

    Args:
        prediction: predictions are start and end logits, (rows, tokens) each; labels are first token and last token,
            (rows,) each, and the `losparse.data.tokens.Window` of every row, (rows, 4).
    """
    starts, ends = (np.asarray(logits, np.float64) for logits in prediction.predictions[:2])
    first, last, facts = prediction.label_ids[:3]
    questions, begins, stops, answerable = np.asarray(facts).T
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
