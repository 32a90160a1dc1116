"""One class a text, or a pair of texts.

text, pair    see `losparse.data.loading`
label         label, labels, category, class, target: a text, or an integer class id
"""

from __future__ import annotations

from collections.abc import Sequence

from ..columns import Columns, find_column, texts_and_pairs, values_of
from ..examples import Examples
from ..labels import LABEL_COLUMNS, class_id, class_lookup, class_names, label_text
from ..metrics import Metric, classification
from ..tables import Table
from .base import TaskData

_SEVERAL = "for several labels a text, or none: --task multi-label-classification"


class TextClassification(TaskData):
    """A row a text; labels = class id."""

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        """Return texts, and second texts if there are any, with the class of each; see `TaskData.read`."""
        texts, pairs = texts_and_pairs(table, columns)
        column = find_column(table, columns.label, LABEL_COLUMNS, "label")
        values = [
            label_text(table, row, column, value, several=_SEVERAL)
            for row, value in enumerate(values_of(table, column))
        ]
        classes = class_names(table, column, values, names)
        lookup = class_lookup(values, classes)
        labels = [class_id(table, row, value, lookup, classes) for row, value in enumerate(values)]
        return Examples(texts, pairs, labels, classes)

    def metric(self) -> Metric:
        """Return accuracy and Matthews correlation."""
        return classification
