"""Metrics that several tasks share, of the predictions of a Hugging Face Trainer; others are in the files of tasks.

Correlations are scipy's, loaded when a training is measured; what follows from counts is counted here, since standard
errors need it hundreds of times. Correlations and `matthews` are in -1..1, and 0 where they are not defined: a constant
on either side tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .tokens import IGNORED

Array = NDArray[Any]


class Prediction(Protocol):
    """What transformers' Trainer hands to a metric: arrays, or tuples of them where a model gives or takes several."""

    @property
    def predictions(self) -> Any:
        """What the model gave for every row."""

    @property
    def label_ids(self) -> Any:
        """What was right."""


Metric = Callable[[Prediction], dict[str, float]]


def classification(prediction: Prediction) -> dict[str, float]:
    """Return accuracy and Matthews correlation, of texts or of labelled tokens."""
    logits, labels = first_output(prediction), prediction.label_ids
    counted = labels != IGNORED
    predicted, truth = logits.argmax(-1)[counted], labels[counted]
    return {"accuracy": float((predicted == truth).mean()), "matthews": matthews(predicted, truth)}


def matthews(predicted: Array, truth: Array) -> float:
    """Return Matthews' correlation of class ids, of any number of classes.

    Args:
        predicted: class ids; (rows,).
        truth: class ids; (rows,).

    References:
        Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", eq. 8.
    """
    if _constant(predicted) or _constant(truth):
        return 0.0
    classes = int(max(predicted.max(), truth.max())) + 1
    table = np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    table = table.astype(np.float64)
    rows, by_truth, by_prediction = table.sum(), table.sum(1), table.sum(0)
    covariance = np.trace(table) * rows - by_truth @ by_prediction
    spreads = (rows**2 - by_truth @ by_truth) * (rows**2 - by_prediction @ by_prediction)
    return float(np.clip(covariance / np.sqrt(spreads), -1.0, 1.0))


def f1(predicted: Array, truth: Array) -> float:
    """Return the F1 of decisions, 0 where nothing is predicted and nothing true.

    Args:
        predicted: what is said to apply, of any shape; bool.
        truth: what does, of the same shape; bool.
    """
    both = int(predicted.sum()) + int(truth.sum())
    return 2.0 * int((predicted & truth).sum()) / both if both else 0.0


def pearson(one: Array, other: Array) -> float:
    """Return the linear correlation of two lists of numbers; (rows,) each."""
    if _constant(one) or _constant(other):
        return 0.0
    from scipy.stats import pearsonr

    return float(np.clip(pearsonr(one, other).statistic, -1.0, 1.0))


def spearman(one: Array, other: Array) -> float:
    """Return the correlation of the ranks of two lists of numbers; equal numbers share their mean rank."""
    if _constant(one) or _constant(other):
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def first_output(prediction: Prediction) -> Array:
    """Return the logits; some models give more beside them."""
    found = prediction.predictions
    logits: Array = found[0] if isinstance(found, tuple) else found
    return logits


def _constant(values: Array) -> bool:
    return len(values) == 0 or bool((values == values[0]).all())
