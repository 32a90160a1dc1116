"""Batches of rows that are looked at before training: to calibrate a method, or to measure blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from losparse_runtime.contract.task import Task
from losparse_runtime.contract.tensors import TOKENS

from ..data.tasks.registry import find_texts
from ..data.tokens import Rows
from ..methods import Method, OneShot
from .recipe import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CALIBRATION_EXAMPLES, CALIBRATION_TOKENS = 1024, 32_768
"""What a one-shot method looks at where a recipe does not say: texts, or fewer blocks of a causal model's."""

_IMPORTANCE_ROWS, _IMPORTANCE_BATCH = 128, 16
"""Rows on which the importance of blocks is measured, and how many of them at once."""


def needs_data(method: Method) -> bool:
    """Tell whether a method looks at data before training begins."""
    return isinstance(method, OneShot) and method.needs_texts


def calibration_batches(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    training: Training,
    *,
    task: Task | None,
    most_tokens: int = CALIBRATION_TOKENS,
) -> list[dict[str, Any]]:
    """Return batches of examples on which a one-shot method is calibrated: spread over the data, seeded.

    Args:
        rows: of token ids, not padded, with labels or without.
        tokenizer: pads them.
        training: how many rows, how many of them at once, and the seed.
        task: that the rows are made for; None where nobody knows it.
        most_tokens: of all rows, where `training` does not say how many.
    """
    count = training.calibration_examples or CALIBRATION_EXAMPLES
    chosen = np.random.default_rng(training.seed).permutation(len(rows))[:count]
    taken = [rows[int(place)] for place in chosen]
    if training.calibration_examples is None:
        tokens = np.cumsum([len(row[TOKENS]) for row in taken])
        taken = taken[: max(1, int((tokens <= most_tokens).sum()))]
    taken.sort(key=lambda row: len(row[TOKENS]))
    collate, size = find_texts(task).collator(tokenizer), training.batch_size
    return [dict(collate(taken[start : start + size])) for start in range(0, len(taken), size)]


def importance_batches(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, *, task: Task | None
) -> Iterator[Mapping[str, Any]]:
    """Yield batches of rows, evenly taken, on which the importance of blocks is measured."""
    collate = find_texts(task).collator(tokenizer)
    chosen = [rows[row] for row in range(0, len(rows), -(-len(rows) // _IMPORTANCE_ROWS))]
    for first in range(0, len(chosen), _IMPORTANCE_BATCH):
        yield collate(chosen[first : first + _IMPORTANCE_BATCH])
