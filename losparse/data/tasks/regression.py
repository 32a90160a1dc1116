"""A number a text, or a pair of texts: a score. With pairs its model is a cross-encoder, which ranks texts for a query.

text, pair    see `losparse.data.loading`
label         label, labels, score, target: a number
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import LosparseError, shown
from ..columns import Columns, find_column, texts_and_pairs, values_of
from ..examples import Examples
from ..metrics import Metric, Prediction, first_output, pearson, spearman
from ..tables import Table
from .base import TaskData

COLUMNS = ("label", "labels", "score", "target")


class Regression(TaskData):
    """A row a text; labels = number."""

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        """Return texts, and second texts if there are any, with the number of each; see `TaskData.read`."""
        texts, pairs = texts_and_pairs(table, columns)
        column = find_column(table, columns.label, COLUMNS, "label")
        numbers = [_number(table, row, column, value) for row, value in enumerate(values_of(table, column))]
        return Examples(texts, pairs, numbers, ())

    def metric(self) -> Metric:
        """Return both correlations and the mean squared error."""
        return regression


def regression(prediction: Prediction) -> dict[str, float]:
    """Return both correlations and the mean squared error, in the unit of the labels squared."""
    predicted = first_output(prediction).astype(np.float64).reshape(-1)
    truth = prediction.label_ids.astype(np.float64).reshape(-1)
    return {
        "pearson": pearson(predicted, truth),
        "spearman": spearman(predicted, truth),
        "mse": float(np.square(predicted - truth).mean()),
    }


def _number(table: Table, row: int, column: str, value: Any) -> float:
    text = value.strip() if isinstance(value, str) else ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        number = float(str(value))  # not float(value), which overflows for an integer of 400 digits
        if math.isfinite(number):
            return number
    raise LosparseError(f"{table.where(row)}: '{column}' must be a finite number, got {shown(value)}")
