"""A compression without training: a one-shot method, or none, on a model as it is.

MODEL --drop (keep_layers, keep_neurons)--> smaller --compress (method, calibration)--> compact --save--> OUT
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from losparse_runtime.contract.files import write_json
from losparse_runtime.contract.progress import Progress
from losparse_runtime.contract.task import TASK_FIELD, find_task
from losparse_runtime.contract.tensors import TOKENS

from ..compress import compress_
from ..data.tasks.registry import find_texts
from ..data.tokens import Tokenized
from ..environment import peak_memory_bytes
from ..errors import LosparseError
from ..layers.casting import cast_
from ..models.report import CompressionReport, dense_report
from ..saving.folder import Checkpoint
from ..saving.headers import sort_notes
from ..saving.pooling import copy_pooling
from ..saving.staging import REPORT, staged_folder
from ..training.batches import calibration_batches
from ..training.opening import architecture_of, fit_padding, load_as_is, load_tokenizer, text_length
from .dropping import drop_on_texts, drop_unseen
from .embeddings import compact_embeddings
from .job import WITHOUT_TRAINING, CompressionJob
from .outcome import Original, count_original, outcome_of
from .result import CompressedFolder
from .texts import read_calibration, tokenize_calibration

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Prepared:
    """A job with everything opened and checked."""

    job: CompressionJob
    checkpoint: Checkpoint
    model: PreTrainedModel
    original: Original
    tokenizer: PreTrainedTokenizerBase
    rows: Tokenized | None
    batches: list[dict[str, Any]]
    max_length: int | None


def run_one_shot(job: CompressionJob, checkpoint: Checkpoint, progress: Progress) -> CompressedFolder:
    """Compress a model and save it.

    Args:
        job: without `train`.
        checkpoint: of its model.
        progress: shows the stages.

    Raises:
        LosparseError: see `compress_folder`.
    """
    prepared = _prepare(job, checkpoint, progress)
    started = time.perf_counter()
    compression = _compress(prepared, progress)
    seconds = time.perf_counter() - started
    with progress.stage("writing"):
        return _save(prepared, compression, seconds)


def _prepare(job: CompressionJob, checkpoint: Checkpoint, progress: Progress) -> _Prepared:
    """Open and check everything: the cheap first, the model before the texts are tokenised."""
    recipe = job.recipe
    config = checkpoint.config
    task = find_task(architecture_of(checkpoint).__name__, config.get("problem_type"), named=config.get(TASK_FIELD))
    texts_of_task = find_texts(task)
    with progress.stage("reading the data"):
        texts = read_calibration(job, task)
    if texts is not None and config.get("is_encoder_decoder"):
        raise LosparseError(
            f"model '{checkpoint.folder}' has an encoder and a decoder, which --calibration cannot run; take a method "
            "that needs no texts, such as svd"
        )
    with progress.stage("opening the model"):
        tokenizer = load_tokenizer(checkpoint.folder, pads=not texts_of_task.full_rows)
        model = fit_padding(load_as_is(checkpoint, recipe.training.seed), tokenizer)
        original = count_original(model)
        drop_unseen(model, recipe)
    rows, batches, length = None, [], None
    if texts is not None:
        length = text_length(model, tokenizer, job.max_length, usual=texts_of_task.usual_length)
        rows = tokenize_calibration(texts, tokenizer, task, length, recipe.training, progress)
        batches = calibration_batches(rows, tokenizer, recipe.training, task=task)
    drop_on_texts(model, recipe, progress, few=lambda: batches, batches=lambda: batches, sequential=job.sequential)
    compact_embeddings(model, recipe, rows)
    return _Prepared(job, checkpoint, model, original, tokenizer, rows, batches, length)


def _compress(prepared: _Prepared, progress: Progress) -> CompressionReport:
    recipe, model = prepared.job.recipe, prepared.model
    if recipe.method is None:  # narrower or shallower, and that is all
        report = dense_report(model)
    else:
        report = compress_(
            model,
            recipe.method,
            prepared.batches,
            targets=recipe.targets,
            ignore=recipe.ignore,
            sequential=prepared.job.sequential,
            progress=progress,
        )
    config = prepared.checkpoint.config
    stored = config.get("dtype", config.get("torch_dtype"))
    if stored in ("float16", "bfloat16"):  # fp32 was for the arithmetic; the file should not grow
        cast_(model, getattr(torch, stored))
    return report


def _save(prepared: _Prepared, compression: CompressionReport, seconds: float) -> CompressedFolder:
    """Write checkpoint and report."""
    job, model = prepared.job, prepared.model
    recipe = job.recipe.to_dict()
    del recipe["task"]  # nothing was trained for it
    recipe["training"] = {name: recipe["training"][name] for name in WITHOUT_TRAINING}
    looked_at = sum(len(batch[TOKENS]) for batch in prepared.batches)
    with staged_folder(job.out_folder, overwrite=job.overwrite) as folder:
        model.save_pretrained(folder)
        prepared.tokenizer.save_pretrained(folder)
        sort_notes(folder)
        copy_pooling(prepared.checkpoint.folder, folder)
        report = {
            "format": 1,
            **job.settings,
            "sequential": compression.sequential,
            "recipe": recipe,
            "architecture": type(model).__name__,
            "max_length": prepared.max_length,
            "examples": {"calibration": looked_at},
            "truncated": {"calibration": 0 if prepared.rows is None else prepared.rows.truncated},
            "steps": 0,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "metrics": {},
            **outcome_of(model, folder, prepared.checkpoint, prepared.original, compression),
        }
        write_json(folder / REPORT, report)
    return CompressedFolder(job.out_folder, compression, {}, 0, seconds, looked_at, report)
