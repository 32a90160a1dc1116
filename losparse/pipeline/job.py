"""What one compression of a folder reads, does and writes, and which of its parts fit together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LosparseError
from ..methods import NO_METHOD, OneShot, method_to_dict
from ..training.recipe import Recipe

_SEE = "`losparse methods` says what each needs"
WITHOUT_TRAINING = ("batch_size", "seed", "calibration_examples")
"""Parts of a recipe's training that matter without any."""

_FOR_TRAINING = ("validation", "validation_share", "label_column", "teacher", "resume")
_SETTINGS = (
    "model",
    "teacher",
    "train",
    "validation",
    "validation_share",
    "calibration",
    "sequential",
    "text_column",
    "pair_column",
    "label_column",
    "max_length",
)


@dataclass(frozen=True)
class CompressionJob:
    """One compression of a folder: what is read, what is made of it, and where that goes.

    With `train` the model is fine-tuned while it is compressed; without it nothing is trained, which one-shot methods
    (SVD, ROM) need not. Files of texts are csv, tsv, jsonl, for texts alone also txt (a text a line), or hub data sets
    as `owner/name[@config][:split]`. Messages call a part by its flag on the command line: `--keep-layers` is
    `keep_layers` of the recipe.

    Attributes:
        model: dense model: a folder, or a hub id as "owner/name".
        out: folder to write.
        recipe: task, method and training; default: LoSparse, trained for text classification.
        train: labelled texts to train on.
        validation: labelled texts to measure on; default: a part of `train`.
        validation_share: share of `train` to hold out in its place; default: 0.1.
        calibration: texts that a one-shot method looks at; default: some of `train`.
        teacher: fine-tuned model to imitate; the recipe then has `distill_weight` or `distill_hidden` above 0.
        text_column: of texts, words or questions; default: the usual names.
        pair_column: of second texts or contexts.
        label_column: of labels, tags or answers.
        max_length: tokens of a text; default: all positions that the model has.
        sequential: let layers see the outputs of the compressed ones before them when a one-shot method looks at
            inputs; default: where the model allows it.
        resume: go on with OUT.partial, where a training was cut off.
        overwrite: replace `out` if losparse wrote it.
    """

    model: str | Path
    out: str | Path
    recipe: Recipe = field(default_factory=Recipe)
    train: str | Path | None = None
    validation: str | Path | None = None
    validation_share: float | None = None
    calibration: str | Path | None = None
    teacher: str | Path | None = None
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    max_length: int | None = None
    sequential: bool | None = None
    resume: bool = False
    overwrite: bool = False

    @property
    def out_folder(self) -> Path:
        """The folder to write."""
        return Path(self.out)

    @property
    def settings(self) -> dict[str, Any]:
        """What beside the recipe determines the result, as JSON values."""
        values = ((name, getattr(self, name)) for name in _SETTINGS)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}

    @property
    def text_columns(self) -> dict[str, str | None]:
        """Columns of the texts, by the names that `losparse.data.loading` has for them."""
        return {"text_column": self.text_column, "pair_column": self.pair_column}

    def check(self) -> None:
        """Refuse parts that do not fit together, before anything is read.

        Raises:
            LosparseError: the method lacks data that it needs, or something is given that would change nothing.
        """
        _check_teacher(self)
        _check_calibration(self)
        if self.train is None:
            _refuse_parts_of_training(self)


def _check_teacher(job: CompressionJob) -> None:
    weight, hidden = job.recipe.training.distill_weight, job.recipe.training.distill_hidden
    if (max(weight, hidden) > 0) != (job.teacher is not None):
        raise LosparseError(
            "distillation needs both --teacher MODEL and --distill-weight or --distill-hidden above 0, got "
            f"{'no teacher' if job.teacher is None else 'a teacher'} and weights {weight:g} and {hidden:g}"
        )


def _check_calibration(job: CompressionJob) -> None:
    """Refuse data that the method has no use for, and a method without the data it needs."""
    recipe, method, name = job.recipe, job.recipe.method, _method_name(job.recipe)
    statistics = method.statistics if isinstance(method, OneShot) else frozenset()
    reads = isinstance(method, OneShot) and method.needs_texts
    looks_at_texts = reads or (bool(_dropping_on_texts(recipe)) and job.train is None)
    if job.train is None:
        _check_without_training(job, looks_at_texts=looks_at_texts)
    if job.calibration is not None:
        if "fisher" in statistics:
            raise LosparseError(f"method '{name}' looks at the labels of --train; leave out --calibration")
        if not looks_at_texts:
            raise LosparseError(f"method '{name}' looks at no texts; leave out --calibration: {_SEE}")
    if job.sequential is not None and not statistics & {"gram", "square"}:
        raise LosparseError(f"method '{name}' looks at no inputs; leave out --sequential and --no-sequential: {_SEE}")


def _check_without_training(job: CompressionJob, *, looks_at_texts: bool) -> None:
    recipe, method, name = job.recipe, job.recipe.method, _method_name(job.recipe)
    drops = recipe.keep_layers is not None or recipe.keep_neurons is not None
    if method is None and not drops and not recipe.compacts_embeddings:
        raise LosparseError(
            f"method '{name}' without training changes nothing; add --keep-layers, --keep-neurons, --embeddings or "
            "--train FILE"
        )
    if not isinstance(method, OneShot | None):
        raise LosparseError(f"method '{name}' needs training; add --train FILE, or take another method: {_SEE}")
    statistics = frozenset() if method is None else method.statistics
    if "fisher" in statistics:
        raise LosparseError(f"method '{name}' needs labels; add --train FILE, or take another method: {_SEE}")
    if looks_at_texts and job.calibration is None:
        if statistics:
            raise LosparseError(f"method '{name}' needs texts; add --calibration FILE, or take another method: {_SEE}")
        what = "--joint" if method is not None and method.needs_texts else _dropping_on_texts(recipe)[0]
        raise LosparseError(f"{what} needs texts; add --calibration FILE, or leave {what} out")


def _dropping_on_texts(recipe: Recipe) -> list[str]:
    """Return the flags by which texts decide what is dropped."""
    neurons = ["--keep-neurons"] if recipe.keep_neurons is not None else []
    return neurons + (["--keep-layers-by importance"] if recipe.keep_layers_by == "importance" else [])


def _refuse_parts_of_training(job: CompressionJob) -> None:
    given = [name for name in _FOR_TRAINING if getattr(job, name) not in (None, False)]
    if given:
        raise LosparseError(f"--{given[0].replace('_', '-')} is for training; leave it out, or add --train FILE")
    idle = [name for name in ("text_column", "pair_column") if getattr(job, name) is not None]
    if idle and job.calibration is None:
        raise LosparseError(
            f"--{idle[0].replace('_', '-')} does nothing without --calibration; add that, or leave it out"
        )


def _method_name(recipe: Recipe) -> str:
    """Return what a recipe calls its method, which may be one of the user's own."""
    return NO_METHOD if recipe.method is None else str(method_to_dict(recipe.method)["name"])
