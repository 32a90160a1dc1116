"""What one model said of every example, from which any metric of its task follows, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losparse.data.metrics import Metric

Metrics = dict[str, float]

_DRAWS = 300
"""Resamples of the examples: a standard error found from so many is itself certain to 1 / sqrt(2 * 300) = 4 %."""
_SEED = 20230620


@dataclass(frozen=True)
class _Prediction:
    """What a metric reads: logits, and the label of each of their rows."""

    predictions: NDArray[Any]
    label_ids: NDArray[Any]


@dataclass(frozen=True)
class Outcomes:
    """What one model said of labelled examples.

    Attributes:
        predictions: logits, one row a text or a word; or whether a question was answered rightly; (rows, ...).
        labels: what is right, of every row; (rows, ...).
        starts: number of the first row of every example, and of all rows at the end; (examples + 1,).
        metric: all metrics of the task, by name.
    """

    predictions: NDArray[Any]
    labels: NDArray[Any]
    starts: NDArray[np.int64]
    metric: Metric

    @classmethod
    def one_row_each(cls, predictions: NDArray[Any], labels: NDArray[Any], metric: Metric) -> Outcomes:
        """Return outcomes with one row an example; see the attributes."""
        return cls(predictions, labels, np.arange(len(predictions) + 1), metric)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.starts) - 1

    def metrics(self) -> Metrics:
        """Return all metrics, by name."""
        return self.metric(_Prediction(self.predictions, self.labels))

    def draws(self) -> dict[str, NDArray[np.float64]]:
        """Return all metrics on examples drawn anew with replacement, in whole: the words of a text stay together.

        The draws hang on the number of examples alone. So those of two models on the same examples are of the same
        examples, and the difference of both is what the difference of the models would be on other data.

        Returns:
            By name of the metric, its values; (draws,).
        """
        examples = len(self)
        generator = np.random.default_rng(_SEED)
        found = [self._drawn(generator.integers(0, examples, examples)) for _ in range(_DRAWS)]
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    def _drawn(self, examples: NDArray[np.int64]) -> Metrics:
        rows = examples if len(self) == len(self.predictions) else self._rows(examples)
        return self.metric(_Prediction(self.predictions[rows], self.labels[rows]))

    def _rows(self, examples: NDArray[np.int64]) -> NDArray[np.int64]:
        firsts, counts = self.starts[examples], self.starts[examples + 1] - self.starts[examples]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows: NDArray[np.int64] = np.repeat(firsts, counts) + within
        return rows


@dataclass(frozen=True)
class Score:
    """One metric of one model on one set of examples.

    Attributes:
        value: the metric.
        draws: its values on the examples drawn anew; (draws,).
        examples: how many there are.
    """

    value: float
    draws: NDArray[np.float64]
    examples: int

    def to_json(self) -> dict[str, float | None]:
        """Return "value" and its standard "error" as JSON values; null where one example tells of none."""
        return {"value": self.value, "error": _spread(self.draws, self.examples)}

    def minus(self, other: Score) -> dict[str, float | None]:
        """Return "delta", this minus another one on the same examples, and its standard "error", as JSON values."""
        return {"delta": self.value - other.value, "error": _spread(self.draws - other.draws, self.examples)}


def score_all(outcomes: Outcomes) -> Mapping[str, Score]:
    """Return every metric of the task, by name."""
    draws = outcomes.draws()
    return {name: Score(value, draws[name], len(outcomes)) for name, value in outcomes.metrics().items()}


def _spread(draws: NDArray[np.float64], examples: int) -> float | None:
    # np.std of equal numbers is not always 0: their mean is rounded.
    if examples < 2:
        return None
    found = 0.0 if bool((draws == draws[0]).all()) else float(np.std(draws, ddof=1))
    return found if math.isfinite(found) else None
