"""Classes of texts: the one that is right, or every one with a probability of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..contract.task import TASKS, Task
from ..contract.tensors import Arrays
from ..errors import InputError
from .base import Helper, Served, Table, Work, class_names, do, require
from .scoring import class_scores

LIKELY = 0.5
"""From this probability on a class that is right or wrong by itself is right, where nobody says otherwise."""


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

    def labels(self, threshold: float = LIKELY) -> list[str]:
        """Return every class with a score of at least `threshold`, the highest first; it may be none.

        Made for folders in which several classes can be right at once (task "multi-label-classification").

        Raises:
            InputError: threshold is no number in 0..1.
        """
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise InputError(f"threshold must be a probability in 0..1, got {threshold!r}")
        likely = [label for label, score in self.scores.items() if score >= threshold]
        return sorted(likely, key=lambda label: -self.scores[label])


def classify(
    session: Served, texts: str | Iterable[str], batch_size: int = 32, pairs: str | Iterable[str] | None = None
) -> list[Classification]:
    """Classify texts, or text pairs.

    A regression's folder is taken too, though `rank` is made for it: folders of the first exporter called such a model
    a classifier. It has one label, and its score is the model's raw number.

    Args:
        session: of a folder with one row of logits a text: text classification with one class or several, regression.
        texts: the texts; a bare string is one text.
        batch_size: texts in one run, >= 1.
        pairs: the second text of each pair.

    Returns:
        One result a text, in order.

    Raises:
        InputError: the folder is for another task, or an argument is wrong.
        RunError: the model failed, or its logits are not finite.
    """
    return do(session, classify_work(session, texts, pairs), batch_size)


def classify_work(
    session: Served, texts: str | Iterable[str], pairs: str | Iterable[str] | None = None
) -> Work[list[Classification]]:
    """Tokenise what `classify` then runs."""
    task = TASKS[session.task]
    require(session, HELPER.name, does=task.scores_texts)
    labels, (output,) = class_names(session), task.outputs

    def read(places: Sequence[int], outputs: Arrays, mask: NDArray[Any]) -> list[Classification]:
        return [_classification(labels, row) for row in class_scores(outputs[output], task.labels).tolist()]

    return Work(session.encoder.encodings(texts, pairs), read, list)


def _classification(labels: Sequence[str], scores: list[float]) -> Classification:
    best = max(scores)
    return Classification(labels[scores.index(best)], best, dict(zip(labels, scores, strict=True)))


def _table(task: Task, results: Sequence[Classification], texts: Sequence[str]) -> Table:
    both = list(zip(results, texts, strict=True))
    if task.labels != "classes":
        return Table(
            ("label", "score", "text"), [(each.label, f"{each.score:.4f}", text) for each, text in both], (0, 2)
        )
    rows = []
    for each, text in both:
        likely = each.labels()
        rows.append((", ".join(likely) or "-", ", ".join(f"{each.scores[label]:.4f}" for label in likely) or "-", text))
    return Table(("labels", "scores", "text"), rows, (0, 1, 2))


HELPER = Helper("classify", classify, _table, options=("pairs",))
