"""Metrics of tasks whose logits are scored row by row: one row a text, or one a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from losparse.data.examples import Examples
from losparse.data.tasks.registry import find_data
from losparse.data.tasks.token_classification import word_labels
from losparse_runtime import Session
from losparse_runtime.contract.tensors import MASK, Arrays
from losparse_runtime.text.cuts import cuts_told_once

from ..opening.task_model import TaskModel
from .texts import encode_texts

Metrics = dict[str, float]

_BATCH = 32


@dataclass(frozen=True)
class _Prediction:
    """What a metric reads: logits, and the label of each of their rows."""

    predictions: NDArray[Any]
    label_ids: NDArray[Any]


def text_metrics(model: TaskModel, session: Session, examples: Examples) -> tuple[Metrics, Metrics]:
    """Measure a task of one row of logits a text, on texts or pairs of texts.

    Args:
        model: the PyTorch model.
        session: of the folder exported from it.
        examples: labelled texts.

    Returns:
        Metrics of PyTorch, and of the folder.

    Raises:
        LosparseError: the folder has no tokenizer.
    """
    texts = examples.texts if examples.pairs is None else list(zip(examples.texts, examples.pairs, strict=True))
    found: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    with cuts_told_once():
        for feeds in encode_texts(session, texts, _BATCH):
            for logits, rows in zip(both_logits(model, session, feeds), found, strict=True):
                rows.append(logits)
    data = find_data(model.task)
    labels = np.array([data.targets(label, examples)["labels"] for label in examples.labels])
    return _metrics(model, found, labels)


def word_metrics(model: TaskModel, session: Session, examples: Examples) -> tuple[Metrics, Metrics]:
    """Measure a task of one row of logits a token, on words: the first token of a word answers for it.

    Words that a text is cut before are not counted, nor are they in training.

    Args:
        model: the PyTorch model.
        session: of the folder exported from it.
        examples: lists of labelled words.

    Returns:
        Metrics of PyTorch, and of the folder.

    Raises:
        TokenizerError: the folder has no tokenizer.
    """
    labels: list[int] = []
    found: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    with cuts_told_once():
        for first in range(0, len(examples), _BATCH):
            part = examples.select(range(first, min(first + _BATCH, len(examples))))
            encodings = session.encoder.encodings([" ".join(words) for words in part.texts])
            arrays = session.encoder.arrays(encodings)
            real = arrays[MASK].astype(bool)
            for logits, rows in zip(both_logits(model, session, session.feed(arrays)), found, strict=True):
                rows.append(logits[real])
            for words, encoding, of_words in zip(part.texts, encodings, part.labels, strict=True):
                labels += word_labels(words, encoding.offsets, of_words)
    return _metrics(model, found, np.array(labels))


def both_logits(model: TaskModel, session: Session, feeds: Arrays) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the logits of PyTorch and of the folder."""
    (output,) = model.task.outputs
    reference = model.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
    return reference[output].numpy(), session.run(feeds)[output]


def _metrics(
    model: TaskModel, found: tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]], labels: NDArray[Any]
) -> tuple[Metrics, Metrics]:
    metric = find_data(model.task).metric()
    assert metric is not None, "a task with labels has a metric"
    pytorch, onnx = (metric(_Prediction(np.concatenate(rows), labels)) for rows in found)
    return pytorch, onnx
