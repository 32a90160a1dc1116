"""The texts of a compression: read, split into parts, and tokenised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from losparse_runtime.contract.progress import Progress
from losparse_runtime.contract.task import Task
from losparse_runtime.text.panics import panics_caught

from ..data.examples import Examples, relabel, split_examples
from ..data.loading import load_examples, load_texts, tokenize, tokenize_texts
from ..data.tasks.registry import find_texts
from ..data.tokens import Tokenized
from ..errors import LosparseError
from ..training.batches import CALIBRATION_EXAMPLES
from ..training.recipe import Training
from .job import CompressionJob

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VALIDATION_SHARE = 0.1
"""Of the texts to train on, held out to measure on where a job says nothing of it."""


def read_calibration(job: CompressionJob, task: Task | None) -> Examples | None:
    """Read the texts to calibrate on, if any are given, without labels.

    Raises:
        LosparseError: the file cannot be read, or lacks a column.
    """
    if job.calibration is None:
        return None
    return Examples.unlabelled(*load_texts(job.calibration, task=task, split="train", **job.text_columns))


def tokenize_calibration(
    texts: Examples,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | None,
    length: int,
    training: Training,
    progress: Progress,
) -> Tokenized:
    """Tokenise texts for calibration: blocks of one length for causal models, else a row a text.

    Raises:
        LosparseError: see `losparse.data.loading.tokenize`.
    """
    if not find_texts(task).full_rows:  # where rows are texts, those that will not be looked at need no tokens
        count = training.calibration_examples or CALIBRATION_EXAMPLES
        order = np.random.default_rng(training.seed).permutation(len(texts))[:count]
        texts = texts.select(sorted(map(int, order)))
    with panics_caught(), progress.stage("tokenising calibration texts", len(texts)) as advance:
        return tokenize_texts(texts, tokenizer, task=task, max_length=length, progress=advance)


def load_parts(job: CompressionJob, known: tuple[str, ...] | None) -> tuple[Examples, Examples]:
    """Read the texts to train on and those to measure on.

    Args:
        job: whose `train` is given.
        known: labels of a model that knows them, by class id: their order is then taken.

    Raises:
        LosparseError: a file cannot be read, lacks a column, or has labels that training has not.
    """
    assert job.train is not None, "a job that trains"
    task, columns = job.recipe.task, {**job.text_columns, "label_column": job.label_column}
    train = load_examples(job.train, task=task, split="train", **columns)
    train = relabel(train, known) if known is not None else train
    if job.validation is None:
        share = _VALIDATION_SHARE if job.validation_share is None else job.validation_share
        return split_examples(train, share, job.recipe.training.seed)
    if job.validation_share is not None:
        raise LosparseError("--validation-share is the share of --train to hold out; leave it out with --validation")
    names = train.label_names or None
    return train, load_examples(job.validation, task=task, label_names=names, split="validation", **columns)


def tokenize_parts(
    train: Examples,
    validation: Examples,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    length: int,
    progress: Progress,
) -> tuple[Tokenized, Tokenized]:
    """Tokenise both parts under one progress bar."""
    with panics_caught(), progress.stage("tokenising", len(train) + len(validation)) as advance:
        first, second = (
            tokenize(part, tokenizer, task=task, max_length=length, progress=advance) for part in (train, validation)
        )
    return first, second
