"""Outcomes of tasks whose logits are scored row by row: one row a text, or one a word."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from losparse.data.examples import Examples
from losparse.data.metrics import Metric
from losparse.data.tasks.registry import find_data
from losparse.data.tasks.token_classification import word_labels
from losparse_runtime.contract.task import Task
from losparse_runtime.contract.tensors import MASK
from losparse_runtime.text.cuts import cuts_told_once

from .model import Measured
from .outcomes import Outcomes
from .texts import encode_texts

_BATCH = 32


def text_outcomes(model: Measured, task: Task, examples: Examples) -> Outcomes:
    """Ask a model of a task of one row of logits a text, on texts or pairs of texts, in runs of 32.

    Raises:
        LosparseError: the folder has no tokenizer.
    """
    texts = examples.texts if examples.pairs is None else list(zip(examples.texts, examples.pairs, strict=True))
    (output,) = task.outputs
    with cuts_told_once(silent=model.told):
        logits = [model.run(feeds)[output] for feeds in encode_texts(model.session, texts, _BATCH)]
    data = find_data(task)
    labels = np.array([data.targets(label, examples)["labels"] for label in examples.labels])
    return Outcomes.one_row_each(np.concatenate(logits), labels, _metric(task))


def word_outcomes(model: Measured, task: Task, examples: Examples) -> Outcomes:
    """Ask a model of a task of one row of logits a token, on words: the first token of a word answers for it.

    Words that a text is cut before are not counted, nor are they in training.

    Raises:
        TokenizerError: the folder has no tokenizer.
    """
    (output,) = task.outputs
    labels: list[int] = []
    starts = [0]
    found: list[NDArray[Any]] = []
    encoder = model.session.encoder
    with cuts_told_once(silent=model.told):
        for first in range(0, len(examples), _BATCH):
            part = examples.select(range(first, min(first + _BATCH, len(examples))))
            encodings = encoder.encodings([" ".join(words) for words in part.texts])
            arrays = encoder.arrays(encodings)
            real = arrays[MASK].astype(bool)
            found.append(model.run(model.session.feed(arrays))[output][real])
            for words, encoding, of_words in zip(part.texts, encodings, part.labels, strict=True):
                labels += word_labels(words, encoding.offsets, of_words)
                starts.append(len(labels))
    return Outcomes(np.concatenate(found), np.array(labels), np.array(starts), _metric(task))


def _metric(task: Task) -> Metric:
    metric = find_data(task).metric()
    assert metric is not None, "a task with labels has a metric"
    return metric
