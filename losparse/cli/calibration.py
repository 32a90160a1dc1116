"""What one-shot methods look at: `--calibration`, `--sequential`, and which of them a method has a use for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from losparse_runtime.contract.progress import Progress
from losparse_runtime.contract.task import Task
from losparse_runtime.text.panics import panics_caught

from ..data.examples import Examples
from ..data.loading import load_texts, tokenize_texts
from ..data.tasks.registry import find_texts
from ..data.tokens import Tokenized
from ..errors import LosparseError
from ..methods import METHODS, NO_METHOD, OneShot
from ..training.recipe import Recipe, Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SEE = "`losparse methods` says what each needs"


def check_calibration(options: argparse.Namespace, recipe: Recipe) -> None:
    """Refuse data that the method has no use for, and a method without the data it needs.

    Raises:
        LosparseError: see above.
    """
    method = recipe.method
    name = NO_METHOD if method is None else next(name for name, kind in METHODS.items() if kind is type(method))
    statistics = method.statistics if isinstance(method, OneShot) else frozenset()
    trained = options.train is not None
    shrinking = ["--keep-neurons"] if recipe.keep_neurons is not None else []
    shrinking += ["--keep-layers-by importance"] if recipe.keep_layers_by == "importance" else []
    reads = isinstance(method, OneShot) and method.needs_texts
    looks_at_texts = reads or (bool(shrinking) and not trained)
    if not trained:
        if method is None and recipe.keep_layers is None and recipe.keep_neurons is None:
            raise LosparseError(
                f"method '{name}' without training changes nothing; add --keep-layers, --keep-neurons or --train FILE"
            )
        if not isinstance(method, OneShot | None):
            raise LosparseError(f"method '{name}' needs training; add --train FILE, or take another method: {_SEE}")
        if "fisher" in statistics:
            raise LosparseError(f"method '{name}' needs labels; add --train FILE, or take another method: {_SEE}")
        if looks_at_texts and options.calibration is None:
            if statistics:
                raise LosparseError(
                    f"method '{name}' needs texts; add --calibration FILE, or take another method: {_SEE}"
                )
            what = "--joint" if reads else shrinking[0]
            raise LosparseError(f"{what} needs texts; add --calibration FILE, or leave {what} out")
    if options.calibration is not None:
        if "fisher" in statistics:
            raise LosparseError(f"method '{name}' looks at the labels of --train; leave out --calibration")
        if not looks_at_texts:
            raise LosparseError(f"method '{name}' looks at no texts; leave out --calibration: {_SEE}")
    if options.sequential is not None and not statistics & {"gram", "square"}:
        raise LosparseError(f"method '{name}' looks at no inputs; leave out --sequential and --no-sequential: {_SEE}")


def read_texts(options: argparse.Namespace, task: Task | None) -> Examples | None:
    """Read the texts of --calibration, if it is given, without labels.

    Raises:
        LosparseError: the file cannot be read, or lacks a column.
    """
    if options.calibration is None:
        return None
    columns = {"text_column": options.text_column, "pair_column": options.pair_column}
    return Examples.unlabelled(*load_texts(options.calibration, task=task, split="train", **columns))


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
    from ..training.batches import CALIBRATION_EXAMPLES

    if not find_texts(task).full_rows:  # where rows are texts, those that will not be looked at need no tokens
        count = training.calibration_examples or CALIBRATION_EXAMPLES
        order = np.random.default_rng(training.seed).permutation(len(texts))[:count]
        texts = texts.select(sorted(map(int, order)))
    with panics_caught(), progress.stage("tokenising calibration texts", len(texts)) as advance:
        return tokenize_texts(texts, tokenizer, task=task, max_length=length, progress=advance)
