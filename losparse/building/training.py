"""The steps that train: the dense model where the recipe fine-tunes it, and the compressed one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..pipeline.job import CompressionJob
from ..pipeline.run import can_resume
from ..training.recipe import Recipe
from .work import Work


def fine_tune(work: Work) -> None:
    """Fine-tune the dense model."""
    recipe = Recipe(task=work.recipe.compress.task, method=None, training=work.recipe.dense or Recipe().training)
    _run(work, _job(work, work.model, work.out / "dense", recipe))


def compress(work: Work) -> None:
    """Compress it, and train what is left where there are texts."""
    recipe, data = work.recipe.compress, work.recipe.data
    job = _job(work, work.dense, work.compressed, recipe)
    if work.trains:
        job = replace(job, teacher=work.teacher)
    else:
        job = CompressionJob(work.dense, work.compressed, recipe, max_length=data.max_length)
    if reads_calibration(recipe, trains=work.trains):
        job = replace(job, calibration=data.calibration)
        if data.calibration is not None:
            job = replace(job, text_column=data.text_column, pair_column=data.pair_column)
    _run(work, job)


def reads_calibration(recipe: Recipe, *, trains: bool) -> bool:
    """Tell whether a compression has a use for texts that are not for training."""
    from ..methods import OneShot

    method = recipe.method
    statistics = method.statistics if isinstance(method, OneShot) else frozenset()
    if "fisher" in statistics:
        return False
    drops = recipe.keep_neurons is not None or recipe.keep_layers_by == "importance"
    return (isinstance(method, OneShot) and method.needs_texts) or (drops and not trains)


def _job(work: Work, model: Path, out: Path, recipe: Recipe) -> CompressionJob:
    data = work.recipe.data
    return CompressionJob(
        model,
        out,
        recipe,
        train=data.train,
        validation=data.validation,
        validation_share=data.validation_share,
        text_column=data.text_column,
        pair_column=data.pair_column,
        label_column=data.label_column,
        max_length=data.max_length,
    )


def _run(work: Work, job: CompressionJob) -> None:
    """Do a job, from where it was cut off if it was."""
    resume = job.train is not None and can_resume(job)
    work.tools.compress(replace(job, resume=resume, overwrite=True), work.progress)
