"""Compress a model's folder into another folder, with training or without: what `losparse compress` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from losparse_runtime.contract.progress import SILENT, Progress

from ..saving.source import find_model
from ..saving.staging import check_out
from .job import CompressionJob
from .one_shot import run_one_shot
from .report import CompressedFolder
from .trained import prepare, save, train
from .work import check_work, work_folder, work_path

if TYPE_CHECKING:
    from transformers import TrainerCallback


def compress_folder(
    job: CompressionJob, progress: Progress = SILENT, callbacks: Sequence[TrainerCallback] = ()
) -> CompressedFolder | None:
    """Compress a model's folder, and write the small checkpoint beside a report.

    Args:
        job: what to do.
        progress: shows the stages.
        callbacks: more callbacks for the Trainer.

    Returns:
        What was written; None in the other processes of a distributed training, which leave all writing to the first.

    Raises:
        LosparseError: the parts do not fit together, something cannot be read, the model or a layer cannot be
            compressed, or training diverged; nothing is then written, but for the checkpoints in OUT.partial.
    """
    job.check()
    if process_rank() > 0:
        if job.train is not None:
            _train_along(job, callbacks)
        return None
    source = find_model(job.model)
    check_out(job.out_folder, overwrite=job.overwrite, sources=(source,))
    if job.train is None:
        return run_one_shot(job, source, progress)
    settings = {**job.settings, "recipe": job.recipe.to_dict()}
    check_work(job.out_folder, settings, resume=job.resume, overwrite=job.overwrite)
    prepared = prepare(job, source, progress)
    with work_folder(job.out_folder, settings, resume=job.resume, overwrite=job.overwrite) as work:
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
    train(prepare(job, find_model(job.model), SILENT), work_path(job.out_folder), SILENT, callbacks)
