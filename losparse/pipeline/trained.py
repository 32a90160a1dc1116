"""A compression with training: prepared, trained, and saved.

MODEL --drop blocks (keep_layers)--> shallower --compress (method) and fine-tune--> compact --save--> OUT
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import write_json
from losparse_runtime.contract.progress import Progress
from losparse_runtime.contract.task import TASKS

from ..data.tasks.registry import find_data
from ..data.tokens import Tokenized
from ..models.report import dense_report
from ..saving.folder import Checkpoint, read_checkpoint
from ..saving.headers import sort_notes
from ..saving.source import find_model
from ..saving.staging import REPORT, staged_folder
from ..training.adapters import require_lora
from ..training.batches import calibration_batches, importance_batches
from ..training.distill import pair_blocks
from ..training.fine_tune import FineTuneResult
from ..training.opening import fit_padding, load_model, load_tokenizer, text_length
from ..training.problems import check_problem, check_teacher, labels_of, replaced_head, warn_of_order
from ..training.recipe import Recipe
from .dropping import drop_on_texts, drop_unseen
from .embeddings import compact_embeddings
from .job import CompressionJob
from .outcome import Original, count_original, outcome_of
from .result import CompressedFolder
from .steps import check_schedule, default_save_steps, train_model, training_curve
from .texts import load_parts, read_calibration, tokenize_calibration, tokenize_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A job with everything opened and checked.

    Attributes:
        job: what was asked for.
        recipe: that of the job, with a number of steps between checkpoints.
        checkpoint: of the dense model.
        model: to train, with the blocks and neurons that the recipe keeps.
        original: counts of it before any was dropped.
        teacher: to imitate; None where the recipe does not.
        tokenizer: of the model.
        parts: rows to train on and to measure on.
        calibration: batches that a one-shot method looks at, where the job says which texts.
        max_length: tokens of a text.
        replaced: why the model's own head is not what is trained; None where it is, or where there is none.
    """

    job: CompressionJob
    recipe: Recipe
    checkpoint: Checkpoint
    model: PreTrainedModel
    original: Original
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    parts: tuple[Tokenized, Tokenized]
    calibration: list[dict[str, Any]] | None
    max_length: int
    replaced: str | None


def prepare(job: CompressionJob, checkpoint: Checkpoint, progress: Progress) -> Prepared:
    """Open and check everything: the cheap first, the model before the data is tokenised, all before training.

    Args:
        job: whose `train` is given.
        checkpoint: of its model.
        progress: shows the stages.

    Raises:
        LosparseError: see `compress_folder`.
    """
    recipe, task = job.recipe, TASKS[job.recipe.task]
    require_lora(recipe.training, recipe.method)
    of_teacher = None if job.teacher is None else read_checkpoint(find_model(job.teacher))
    known = labels_of(checkpoint, task)
    if known is None and of_teacher is not None:
        known = labels_of(of_teacher, task)
    with progress.stage("reading the data"):
        train, validation = load_parts(job, known)
        texts = read_calibration(job, task)
    with progress.stage("opening the model"):
        tokenizer = load_tokenizer(checkpoint.folder, pads=not find_data(task).full_rows)
        check_problem(checkpoint, task, train.label_names)
        replaced = replaced_head(checkpoint, task, train.label_names)
        if replaced is not None:
            logger.warning("%s", replaced)
        warn_of_order(checkpoint, task, train.label_names)
        model = load_model(checkpoint, task, train.label_names, recipe.training.seed)
        fit_padding(model, tokenizer)
        original = count_original(model)
        drop_unseen(model, recipe)
        teacher = None if of_teacher is None else _open_teacher(of_teacher, recipe, train.label_names, tokenizer)
    length = text_length(model, tokenizer, job.max_length, teacher, usual=find_data(task).usual_length)
    parts = tokenize_parts(train, validation, tokenizer, task, length, progress)
    calibration = None
    if texts is not None:
        rows = tokenize_calibration(texts, tokenizer, task, length, recipe.training, progress)
        calibration = calibration_batches(rows, tokenizer, recipe.training, task=task)
    drop_on_texts(
        model,
        recipe,
        progress,
        few=lambda: importance_batches(parts[0], tokenizer, task=task),
        batches=lambda: calibration_batches(parts[0], tokenizer, recipe.training, task=task),
    )
    compact_embeddings(model, recipe, parts[0])
    if teacher is not None and recipe.training.distill_hidden > 0:
        pair_blocks(model, teacher)
    recipe = _with_save_steps(recipe, check_schedule(recipe, len(parts[0])))
    return Prepared(job, recipe, checkpoint, model, original, teacher, tokenizer, parts, calibration, length, replaced)


def _with_save_steps(recipe: Recipe, steps: int) -> Recipe:
    if recipe.training.save_steps is not None:
        return recipe
    return replace(recipe, training=replace(recipe.training, save_steps=default_save_steps(steps)))


def _open_teacher(
    checkpoint: Checkpoint, recipe: Recipe, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """Open the model to imitate; see `check_teacher`."""
    task, head = TASKS[recipe.task], recipe.training.distill_weight > 0
    if head:
        check_problem(checkpoint, task, labels, role="teacher")
    check_teacher(checkpoint, task, labels, len(tokenizer), head=head)
    return fit_padding(load_model(checkpoint, task, labels, recipe.training.seed, head=head), tokenizer)


def train(
    prepared: Prepared, work: Path, progress: Progress, callbacks: Sequence[TrainerCallback] = ()
) -> FineTuneResult:
    """Train what is prepared, and compress it; see `train_model`."""
    return train_model(
        prepared.model,
        prepared.tokenizer,
        prepared.parts,
        prepared.recipe,
        work,
        progress,
        teacher=prepared.teacher,
        calibration=prepared.calibration,
        sequential=prepared.job.sequential,
        resume=prepared.job.resume,
        callbacks=callbacks,
    )


def save(prepared: Prepared, result: FineTuneResult) -> CompressedFolder:
    """Write checkpoint and report."""
    job, parts = prepared.job, prepared.parts
    compression = result.compression or dense_report(prepared.model)
    with staged_folder(job.out_folder, overwrite=job.overwrite) as folder:
        prepared.model.save_pretrained(folder)
        prepared.tokenizer.save_pretrained(folder)
        sort_notes(folder)
        report = {
            "format": 1,
            **job.settings,
            "recipe": prepared.recipe.to_dict(),
            "max_length": prepared.max_length,
            "examples": {"train": len(parts[0]), "validation": len(parts[1])},
            "truncated": {"train": parts[0].truncated, "validation": parts[1].truncated},
            "steps": result.steps,
            "seconds": result.seconds,
            "metrics": result.metrics,
            "log": training_curve(result.log),
            "replaced_head": prepared.replaced,
            **outcome_of(prepared.model, folder, prepared.checkpoint, prepared.original, compression),
        }
        write_json(folder / REPORT, report)
    return CompressedFolder(job.out_folder, compression, result.metrics, result.steps, result.seconds, 0, report)
