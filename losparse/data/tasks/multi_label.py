"""Any number of classes a text, or a pair of texts.

    text, pair    see `losparse.data.loading`
    labels        labels, label, categories, classes: a list of labels (jsonl), or one text in which `;` stands between
                  them (csv, tsv, jsonl); an empty list or text where no class applies

    text,labels                              in a csv, and the same in a jsonl:
    the film was long,drama;history          {"text": "the film was long", "labels": ["drama", "history"]}

A label is a text or an integer class id; spaces around it do not count. Labels that apply are named, and no 0 or 1 is
written for each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import LosparseError, shown
from ..columns import Columns, find_column, texts_and_pairs, values_of
from ..examples import Examples
from ..labels import class_id, class_lookup, class_names, label_text
from ..metrics import Metric, Prediction, f1, first_output
from ..tables import Table
from .base import TaskData

SEPARATOR = ";"
COLUMNS = ("labels", "label", "categories", "classes")


class MultiLabelClassification(TaskData):
    """A row a text; labels = 1.0 for each class that applies, 0.0 for each other one, by class id."""

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        """Return texts, and second texts if there are any, with the class ids of each; see `TaskData.read`."""
        texts, pairs = texts_and_pairs(table, columns)
        column = find_column(table, columns.label, COLUMNS, "label")
        found = [_labels(table, row, column, value) for row, value in enumerate(values_of(table, column))]
        values = [label for each in found for label in each]
        if not values and names is None:
            raise LosparseError(f"{table.name}: column '{column}' names no class in any row; training needs some")
        classes = class_names(table, column, values, names, least=1)
        lookup = class_lookup(values, classes)
        labels = [
            sorted({class_id(table, row, value, lookup, classes) for value in each}) for row, each in enumerate(found)
        ]
        if names is None and all(len(each) == len(classes) for each in labels):
            raise LosparseError(
                f"{table.name}: column '{column}' names every class in every row, which leaves nothing to learn; name "
                "those that apply, and not a 0 or 1 for each class"
            )
        return Examples(texts, pairs, labels, classes)

    def targets(self, label: Any, examples: Examples) -> dict[str, Any]:
        """Return a number for each class, as the loss of transformers takes them: floats; see `TaskData.targets`."""
        return {"labels": [float(number in label) for number in range(len(examples.label_names))]}

    def metric(self) -> Metric:
        """Return F1 over all decisions, the mean F1 of classes, and the share of texts with exactly their classes."""
        return multi_label


def multi_label(prediction: Prediction) -> dict[str, float]:
    """Return how right the classes of texts are; a class is taken to apply where its logit is above 0.

    Args:
        prediction: predictions are logits, (rows, classes); labels are 1 where a class applies, else 0, the same shape.

    Returns:
        "f1" over all decisions (micro), "f1_macro", the mean of the classes' own, and "accuracy", the share of rows
        whose classes are exactly right; in 0..1. An F1 of nothing predicted and nothing true is 0.
    """
    predicted = first_output(prediction) > 0
    truth = np.asarray(prediction.label_ids).round() > 0
    return {
        "f1": f1(predicted, truth),
        "f1_macro": float(np.mean([f1(predicted[:, i], truth[:, i]) for i in range(truth.shape[1])])),
        "accuracy": float((predicted == truth).all(-1).mean()),
    }


def _labels(table: Table, row: int, column: str, value: Any) -> list[str]:
    """Return the labels of a row, each once."""
    if isinstance(value, str):
        parts: list[Any] = value.split(SEPARATOR) if value.strip() else []
    elif isinstance(value, list):
        parts = value
    else:
        raise LosparseError(
            f"{table.where(row)}: '{column}' must be a list of labels, or a text with '{SEPARATOR}' between them, got "
            f"{shown(value)}"
        )
    labels = [label_text(table, row, column, part) for part in parts]
    if len(set(labels)) < len(labels):
        bits = "; name those that apply, and not a 0 or 1 for each class" if set(labels) <= {"0", "1"} else ""
        raise LosparseError(f"{table.where(row)}: '{column}' must name a label once, got {shown(value)}{bits}")
    return labels
