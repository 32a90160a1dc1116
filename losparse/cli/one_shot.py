"""`losparse compress` without --train: a one-shot method, or none, on a model as it is, and nothing trained.

MODEL --drop (--keep-layers, --keep-neurons)--> smaller --compress (--method, --calibration)--> compact --save--> OUT
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from losparse_runtime.contract.progress import Progress
from losparse_runtime.contract.task import find_task
from losparse_runtime.contract.tensors import TOKENS

from ..compress import compress_
from ..data.tasks.registry import find_texts
from ..environment import peak_memory_bytes
from ..errors import LosparseError
from ..layers.blocks import stack_of
from ..layers.casting import cast_
from ..layers.linear import find_targets
from ..models.report import CompressionReport, dense_report
from ..saving.folder import Checkpoint, read_checkpoint, refuse_compressed
from ..saving.source import find_model
from ..saving.staging import check_out, staged_folder
from ..training.batches import calibration_batches
from ..training.opening import (
    architecture_of,
    fit_padding,
    load_as_is,
    load_tokenizer,
    quiet_transformers,
    text_length,
)
from ..training.recipe import Recipe
from .calibration import read_texts, tokenize_calibration
from .compress import settings_of
from .output import check_json_target, write_json
from .parser import given, refuse_idle
from .progress import StderrProgress
from .report import REPORT, Original, count_original, outcome_of, print_report
from .shrink import shrink_on_texts, shrink_unseen
from .training import copy_pooling, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.tokens import Tokenized

_BLOCK = 512
"""Tokens of a block of text for causal models, where --max-length does not say and the model has as many positions."""

_FOR_TRAINING = ("task", "validation", "validation_share", "label_column", "teacher", "resume")
_WITHOUT_TRAINING = ("batch_size", "seed", "calibration_examples")


@dataclass(frozen=True)
class _Job:
    """One compression, with everything opened and checked."""

    checkpoint: Checkpoint
    recipe: Recipe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: Tokenized | None
    batches: list[dict[str, Any]]
    max_length: int | None
    original: Original
    sequential: bool | None


def run_one_shot(options: argparse.Namespace, recipe: Recipe) -> int:
    """Compress, save and print what came of it."""
    _refuse_training_flags(options)
    refuse_idle(options, ["text_column", "pair_column"], ["calibration"])
    source = find_model(options.model)
    check_out(options.out, overwrite=options.overwrite, sources=(source,))
    check_json_target(options.json)
    progress = StderrProgress(verbose=options.verbose)
    job = _prepare(options, recipe, read_checkpoint(source), progress)
    started = time.perf_counter()
    compression = _compress(job, progress)
    seconds = time.perf_counter() - started
    with progress.stage("writing"):
        report = _save(options, job, compression, seconds)
    rows = "" if job.rows is None else f" on {report['examples']['calibration']:,} rows of text"
    done = "smaller" if job.recipe.method is None else report["recipe"]["method"]["name"]
    print_report(f"{options.out}: {done}{rows} in {report['seconds']:.0f} s", report)
    if options.json is not None:
        write_json(options.json, report)
    return 0


def _refuse_training_flags(options: argparse.Namespace) -> None:
    """Refuse what only training has a use for.

    Raises:
        LosparseError: such a flag is given.
    """
    flags = [name for name in _FOR_TRAINING if getattr(options, name) not in (None, False)]
    flags += [name for name in given(options, "training") if name not in _WITHOUT_TRAINING]
    if flags:
        raise LosparseError(f"--{flags[0].replace('_', '-')} is for training; leave it out, or add --train FILE")


def _prepare(options: argparse.Namespace, recipe: Recipe, checkpoint: Checkpoint, progress: Progress) -> _Job:
    """Open and check everything: the cheap first, the model before the texts are tokenised."""
    refuse_compressed(checkpoint)
    task = find_task(architecture_of(checkpoint).__name__, checkpoint.config.get("problem_type"))
    full_rows = find_texts(task).full_rows
    with progress.stage("reading the data"):
        texts = read_texts(options, task)
    if texts is not None and checkpoint.config.get("is_encoder_decoder"):
        raise LosparseError(
            f"model '{checkpoint.folder}' has an encoder and a decoder, which --calibration cannot run; take a method "
            "that needs no texts, such as svd"
        )
    quiet_transformers()
    with progress.stage("opening the model"):
        tokenizer = load_tokenizer(checkpoint.folder, pads=not full_rows)
        model = fit_padding(load_as_is(checkpoint, recipe.training.seed), tokenizer)
        original = count_original(model)
        shrink_unseen(model, recipe)
    rows, batches, length = None, [], None
    if texts is not None:
        length = text_length(model, tokenizer, options.max_length)
        if full_rows and options.max_length is None:
            length = min(length, _BLOCK)
        rows = tokenize_calibration(texts, tokenizer, task, length, recipe.training, progress)
        batches = calibration_batches(rows, tokenizer, recipe.training, task=task)
    shrink_on_texts(
        model, recipe, progress, few=lambda: batches, batches=lambda: batches, sequential=options.sequential
    )
    return _Job(checkpoint, recipe, model, tokenizer, rows, batches, length, original, options.sequential)


def _blocks(model: PreTrainedModel, recipe: Recipe) -> list[str]:
    return stack_of(model, find_targets(model, recipe.targets, recipe.ignore))


def _compress(job: _Job, progress: Progress) -> CompressionReport:
    recipe = job.recipe
    if recipe.method is None:  # narrower or shallower, and that is all
        report = dense_report(job.model)
    else:
        report = compress_(
            job.model,
            recipe.method,
            job.batches,
            targets=recipe.targets,
            ignore=recipe.ignore,
            sequential=job.sequential,
            progress=progress,
        )
    stored = job.checkpoint.config.get("dtype", job.checkpoint.config.get("torch_dtype"))
    if stored in ("float16", "bfloat16"):  # fp32 was for the arithmetic; the file should not grow
        cast_(job.model, getattr(torch, stored))
    return report


def _save(options: argparse.Namespace, job: _Job, compression: CompressionReport, seconds: float) -> dict[str, Any]:
    """Write checkpoint and report; returns the report."""
    recipe = job.recipe.to_dict()
    del recipe["task"]  # nothing was trained for it
    recipe["training"] = {name: recipe["training"][name] for name in _WITHOUT_TRAINING}
    looked_at = sum(len(batch[TOKENS]) for batch in job.batches)
    with staged_folder(options.out, overwrite=options.overwrite) as folder:
        save_model(job.model, job.tokenizer, folder)
        copy_pooling(job.checkpoint.folder, folder)
        report = {
            "format": 1,
            **settings_of(options),
            "sequential": compression.sequential,
            "recipe": recipe,
            "architecture": type(job.model).__name__,
            "max_length": job.max_length,
            "examples": {"calibration": looked_at},
            "truncated": {"calibration": 0 if job.rows is None else job.rows.truncated},
            "steps": 0,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "metrics": {},
            **outcome_of(job.model, folder, job.checkpoint, job.original, compression),
        }
        write_json(folder / REPORT, report)
    return report
