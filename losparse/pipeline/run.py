"""Compress a model's folder into another folder, with training or without: what `losparse compress` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from losparse_runtime.contract.progress import SILENT, Progress

from ..saving.source import find_model
from ..saving.staging import check_out
from ..training.recipe import Recipe
from .job import CompressionJob
from .one_shot import run_one_shot
from .report import CompressedFolder
from .trained import prepare, save, train
from .work import check_work, work_folder, work_path

if TYPE_CHECKING:
    from transformers import TrainerCallback


def compress_folder(
    model: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    validation_share: float | None = None,
    calibration: str | Path | None = None,
    teacher: str | Path | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    sequential: bool | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
    callbacks: Sequence[TrainerCallback] = (),
) -> CompressedFolder | None:
    """Compress a model's folder, and write the small checkpoint beside a report.

    With `train` the model is fine-tuned while it is compressed; without it nothing is trained, which one-shot methods
    (SVD, ROM) need not. Files of texts are csv, tsv, jsonl, for texts alone also txt (a text a line), or hub data sets
    as "owner/name[@config][:split]".

    Args:
        model: dense model: a folder, or a hub id as "owner/name".
        out: folder to write.
        recipe: task, method and training; default: LoSparse, trained for text classification.
        train: labelled texts to train on.
        validation: labelled texts to measure on; default: a part of `train`.
        validation_share: share of `train` to hold out in its place; default: 0.1.
        calibration: texts that a one-shot method looks at; default: some of `train`.
        teacher: fine-tuned model to imitate; its recipe has `distill_weight` or `distill_hidden` above 0.
        text_column: of texts, words or questions; default: the usual names.
        pair_column: of second texts or contexts.
        label_column: of labels, tags or answers.
        max_length: tokens of a text; default: all positions that the model has.
        sequential: let layers see the outputs of the compressed ones before them when a one-shot method looks at
            inputs; default: where the model allows it.
        resume: go on with OUT.partial, where a training was cut off.
        overwrite: replace `out` if losparse wrote it.
        progress: shows the stages.
        callbacks: more callbacks for the Trainer.

    Returns:
        What was written; None in the other processes of a distributed training, which leave all writing to the first.

    Raises:
        LosparseError: the parts do not fit together, something cannot be read, the model or a layer cannot be
            compressed, or training diverged; nothing is then written, but for the checkpoints in OUT.partial.
    """
    job = CompressionJob(
        model=model,
        out=Path(out),
        recipe=Recipe() if recipe is None else recipe,
        train=train,
        validation=validation,
        validation_share=validation_share,
        calibration=calibration,
        teacher=teacher,
        text_column=text_column,
        pair_column=pair_column,
        label_column=label_column,
        max_length=max_length,
        sequential=sequential,
        resume=resume,
        overwrite=overwrite,
    )
    return run_job(job, progress, callbacks)


def run_job(
    job: CompressionJob, progress: Progress = SILENT, callbacks: Sequence[TrainerCallback] = ()
) -> CompressedFolder | None:
    """Do a job; see `compress_folder`."""
    job.check()
    if process_rank() > 0:
        if job.train is not None:
            _train_along(job, callbacks)
        return None
    source = find_model(job.model)
    check_out(job.out, overwrite=job.overwrite, sources=(source,))
    if job.train is None:
        return run_one_shot(job, source, progress)
    settings = {**job.settings, "recipe": job.recipe.to_dict()}
    check_work(job.out, settings, resume=job.resume, overwrite=job.overwrite)
    prepared = prepare(job, source, progress)
    with work_folder(job.out, settings, resume=job.resume, overwrite=job.overwrite) as work:
        result = train(prepared, work, progress, callbacks)
        with progress.stage("writing"):
            return save(prepared, result)


def process_rank() -> int:
    """Return which process of a distributed training this is, as torchrun and accelerate number them; 0 if alone."""
    rank = os.environ.get("RANK")
    if rank is not None and not torch.cuda.is_available():
        # Without it accelerate takes the processes for strangers where there is no GPU, and each trains on its own.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    return int(rank or 0)


def _train_along(job: CompressionJob, callbacks: Sequence[TrainerCallback]) -> None:
    """Be one of the other processes of a distributed training: take part in it, and leave all writing to the first."""
    train(prepare(job, find_model(job.model), SILENT), work_path(job.out), SILENT, callbacks)
