"""Compress a model's folder into another folder, with training or without: what `losparse compress` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.progress import SILENT, Progress

from ..errors import LosparseError
from ..saving.folder import Checkpoint
from .inputs import check_inputs
from .job import CompressionJob
from .result import CompressedFolder
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
    rank = process_rank()
    checkpoint = check_inputs(job, writes=rank == 0)
    settings = _settings(job)
    if job.train is not None and rank == 0:
        check_work(job.out_folder, settings, resume=job.resume, overwrite=job.overwrite)
    # Only here, when nothing is wrong that costs no torch to see: that takes seconds to load.
    from ..training.opening import transformers_quiet

    with transformers_quiet():
        _gather_on_cpu()
        if rank > 0:
            _train_along(job, checkpoint, callbacks)
            return None
        return _compress(job, checkpoint, settings, progress, callbacks)


def _compress(
    job: CompressionJob,
    checkpoint: Checkpoint,
    settings: dict[str, Any],
    progress: Progress,
    callbacks: Sequence[TrainerCallback],
) -> CompressedFolder:
    if job.train is None:
        from .one_shot import run_one_shot

        return run_one_shot(job, checkpoint, progress)
    from .trained import prepare, save, train

    prepared = prepare(job, checkpoint, progress)
    with work_folder(job.out_folder, settings, resume=job.resume, overwrite=job.overwrite) as work:
        result = train(prepared, work, progress, callbacks)
        with progress.stage("writing"):
            return save(prepared, result)


def can_resume(job: CompressionJob) -> bool:
    """Tell whether OUT.partial holds the training of just this job, so that it can go on."""
    if not work_path(job.out_folder).exists():
        return False
    try:
        check_work(job.out_folder, _settings(job), resume=True, overwrite=False)
    except LosparseError:
        return False
    return True


def _settings(job: CompressionJob) -> dict[str, Any]:
    return {**job.settings, "recipe": job.recipe.to_dict()}


def process_rank() -> int:
    """Return which process of a distributed training this is, as torchrun and accelerate number them; 0 if alone."""
    rank = os.environ.get("RANK")
    return int(rank or 0)


def _gather_on_cpu() -> None:
    """Tell accelerate that the processes of a distributed training belong together where there is no GPU.

    Without it accelerate takes them for strangers there, and each trains on its own.
    """
    import torch

    if "RANK" in os.environ and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def _train_along(job: CompressionJob, checkpoint: Checkpoint, callbacks: Sequence[TrainerCallback]) -> None:
    """Be one of the other processes of a distributed training: take part in it, and leave all writing to the first."""
    if job.train is None:
        return
    from .trained import prepare, train

    train(prepare(job, checkpoint, SILENT), work_path(job.out_folder), SILENT, callbacks)
