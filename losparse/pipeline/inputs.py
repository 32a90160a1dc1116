"""What a compression reads, looked for before torch is loaded: a wrong path is answered at once."""

from __future__ import annotations

from pathlib import Path

from ..data.tables import check_source
from ..data.tasks.registry import find_data
from ..saving.folder import Checkpoint, read_checkpoint, refuse_compressed
from ..saving.source import find_model
from ..saving.staging import check_out
from .job import CompressionJob


def check_inputs(job: CompressionJob, *, writes: bool = True) -> Checkpoint:
    """Check a job's parts, folders and files; of the model, configuration and headers are read.

    Args:
        job: what to do.
        writes: whether this process writes the result.

    Returns:
        The dense model's folder.

    Raises:
        LosparseError: the parts do not fit together, OUT is there already, a file of texts is not, or the model is not
            there, damaged, or compressed.
    """
    job.check()
    if writes:  # before the hub is asked for the model
        check_out(job.out_folder, overwrite=job.overwrite, sources=(Path(job.model),))
    plain = find_data(job.recipe.task).plain
    for source, plain_too in ((job.train, plain), (job.validation, plain), (job.calibration, True)):
        if source is not None:
            check_source(source, plain=plain_too)
    folder = find_model(job.model)
    if writes:
        check_out(job.out_folder, overwrite=job.overwrite, sources=(folder,))
    checkpoint = read_checkpoint(folder)
    refuse_compressed(checkpoint)
    if job.teacher is not None:
        read_checkpoint(find_model(job.teacher))
    return checkpoint
