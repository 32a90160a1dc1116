"""Labelled texts of one split: what reading gives and tokenising takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import LosparseError
from .labels import matching_ids


@dataclass(frozen=True)
class Examples:
    """Labelled texts of one split.

    Attributes:
        texts: a text, the list of words, or the question, for each example.
        pairs: second text or context of each example; None where there are none.
        labels: of each example, as its task has it: a class id, a list of them (of words, or of all classes that
            apply), an answer, a number; None without labels.
        label_names: by class id; empty where labels are no classes.
    """

    texts: list[Any]
    pairs: list[str] | None
    labels: list[Any]
    label_names: tuple[str, ...]

    @classmethod
    def unlabelled(cls, texts: list[str], pairs: list[str] | None = None) -> Examples:
        """Return texts, and second texts if there are any, without labels."""
        return cls(texts, pairs, [None] * len(texts), ())

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.texts)

    def select(self, rows: Sequence[int]) -> Examples:
        """Return the examples at these rows, in that order."""
        pairs = None if self.pairs is None else [self.pairs[row] for row in rows]
        return Examples([self.texts[row] for row in rows], pairs, [self.labels[row] for row in rows], self.label_names)


def relabel(examples: Examples, names: Sequence[str]) -> Examples:
    """Return the examples with the class ids of a model that knows these labels, or as they are if it does not.

    Args:
        examples: with labels in the order of `load_examples`.
        names: the model's labels by class id; upper and lower case count as one. Examples whose labels are the integers
            below their number are taken to be labelled with class ids.
    """
    new = matching_ids(examples.label_names, names)
    if not new:
        return examples
    labels = [[new[each] for each in label] if isinstance(label, list) else new[label] for label in examples.labels]
    return replace(examples, labels=labels, label_names=tuple(names))


def split_examples(examples: Examples, share: float, seed: int = 0) -> tuple[Examples, Examples]:
    """Hold out a share of the examples; equal texts go to the same side.

    Args:
        examples: what to split.
        share: of the distinct texts to hold out, in (0, 1); at least one text is held out.
        seed: of the choice; the same seed gives the same split.

    Returns:
        The rest and the held-out part, both in their former order.

    Raises:
        LosparseError: the share is out of range, or there are fewer than two distinct texts.
    """
    if not 0 < share < 1:
        raise LosparseError(f"share of examples to hold out must be in (0, 1), got {share}")
    pairs: Sequence[str | None] = examples.pairs or [None] * len(examples)
    keys = [repr(both) for both in zip(examples.texts, pairs, strict=True)]
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        raise LosparseError(f"splitting needs at least 2 different texts, got {len(distinct)}; give a validation file")
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    chosen = {distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))[:count]}
    rest = [row for row, key in enumerate(keys) if key not in chosen]
    held_out = [row for row, key in enumerate(keys) if key in chosen]
    return examples.select(rest), examples.select(held_out)
