"""What `losparse compress` and `losparse demo` share: training with a progress bar, resuming, saving."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from losparse_runtime.contract.progress import Advance, Progress
from losparse_runtime.contract.task import Task
from losparse_runtime.text.panics import panics_caught

from ..calibration.running import Batch
from ..data.examples import Examples
from ..data.loading import tokenize
from ..data.tokens import Tokenized
from ..errors import LosparseError
from ..saving.schema import read_object
from ..training.fine_tune import FineTuneResult, fine_tune
from ..training.recipe import Recipe, Training
from .output import write_json

SETTINGS = "settings.json"
_SAVES = 10
"""Checkpoints of a training whose recipe does not say how many; only the last one is kept."""


class _StepCallback(TrainerCallback):  # type: ignore[misc]
    """Moves a progress bar by one for every optimizer step, and then for every batch that is measured."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.measuring = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the bar its length; a resumed training has done a part of it."""
        self.advance(state.global_step, total=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count one step."""
        self.advance(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the mean loss since it was said last."""
        if logs is not None and "loss" in logs:
            self.advance(0, note=f"loss {logs['loss']:.4g}")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count one batch of the evaluation that follows training."""
        if not self.measuring:
            self.measuring = True
            self.advance(-state.global_step, total=len(kwargs["eval_dataloader"]), title="measuring on validation")
        self.advance(1)


def tokenize_parts(
    train: Examples,
    validation: Examples,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    length: int,
    progress: Progress,
) -> tuple[Tokenized, Tokenized]:
    """Tokenise both parts under one progress bar."""
    with panics_caught(), progress.stage("tokenising", len(train) + len(validation)) as advance:
        first, second = (
            tokenize(part, tokenizer, task=task, max_length=length, progress=advance) for part in (train, validation)
        )
    return first, second


def step_count(training: Training, rows: int) -> int:
    """Return how many optimizer steps the Trainer takes in one process; more processes take fewer."""
    if training.max_steps is not None:
        return training.max_steps
    batches = math.ceil(rows / training.batch_size)
    return math.ceil(training.epochs * max(math.ceil(batches / training.gradient_accumulation), 1))


def check_schedule(recipe: Recipe, rows: int) -> int:
    """Return the optimizer steps of a recipe, if its pruning schedule fits into them.

    Raises:
        LosparseError: the schedule is longer than training.
    """
    steps = step_count(recipe.training, rows)
    schedule = getattr(recipe.method, "schedule", None)
    if schedule is not None:
        schedule(steps)
    return steps


def train_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: tuple[Tokenized, Tokenized],
    recipe: Recipe,
    work: Path,
    progress: Progress,
    *,
    teacher: nn.Module | None = None,
    calibration: Sequence[Batch] | None = None,
    sequential: bool | None = None,
    resume: bool = False,
    title: str = "compressing",
) -> FineTuneResult:
    """Fine-tune a model in place, and compress it if the recipe has a method.

    Args:
        model: dense; afterwards in its compact form, with a method.
        tokenizer: pads the batches.
        parts: training and validation rows.
        recipe: method, training and layers.
        work: folder for checkpoints.
        progress: shows one bar over the optimizer steps.
        teacher: model to imitate, where the recipe distils.
        calibration: batches that a one-shot method looks at; default: some training examples.
        sequential: see `compress_`.
        resume: go on from the last checkpoint in `work`.
        title: of the bar.
    """
    # The Trainer prints its logs on stdout where its own bar is off; stdout is for results.
    with progress.stage(title) as advance, contextlib.redirect_stdout(io.StringIO()):
        return fine_tune(
            model,
            tokenizer,
            *parts,
            recipe.training,
            output_dir=work,
            task=recipe.task,
            method=recipe.method,
            teacher=teacher,
            targets=recipe.targets,
            ignore=recipe.ignore,
            calibration=calibration,
            sequential=sequential,
            resume=resume,
            quiet=True,
            callbacks=(_StepCallback(advance),),
        )


def default_save_steps(steps: int) -> int:
    """Return how often to write a checkpoint where the recipe does not say: a tenth of training."""
    return max(1, math.ceil(steps / _SAVES))


@contextmanager
def work_folder(out: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Yield OUT.partial, which holds checkpoints; it is removed unless the block fails with a checkpoint in it.

    Args:
        out: where the result will be.
        settings: all that determines the training, as JSON values; a resumed training must have the same.
        resume: go on from an existing work folder.
        overwrite: throw an existing work folder away.

    Raises:
        LosparseError: there is an unfinished training that is neither resumed nor overwritten, or other settings.
    """
    work = check_work(out, settings, resume=resume, overwrite=overwrite)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / SETTINGS, settings)
    try:
        yield work
    except BaseException as error:
        if not any(work.glob("checkpoint-*")):
            shutil.rmtree(work, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"add --resume to go on from '{work}'") from None
        raise
    shutil.rmtree(work)


def work_path(out: Path) -> Path:
    """Return OUT.partial."""
    return out.resolve().with_name(f"{out.resolve().name}.partial")


def check_work(out: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """Return the path of OUT.partial, if it may be used.

    Raises:
        LosparseError: see `work_folder`.
    """
    work = work_path(out)
    if not work.exists():
        return work
    if not (work / SETTINGS).is_file():
        raise LosparseError(f"'{work}' is needed for checkpoints and was not written by losparse; move it away")
    if not resume and not overwrite:
        raise LosparseError(
            f"'{work}' holds an unfinished training; add --resume to go on with it, or --overwrite to begin again"
        )
    if resume:
        before = read_object(work / SETTINGS)
        changed = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        if changed:
            raise LosparseError(
                f"--resume must have the settings that '{work}' began with; {', '.join(changed)} changed: "
                f"{before.get(changed[0])!r} then, {settings.get(changed[0])!r} now"
            )
    return work


def copy_pooling(source: Path, folder: Path) -> None:
    """Copy what says how a sentence encoder's token vectors become one, where its folder is of sentence-transformers.

    Copied are the list of modules, their settings, and the weights of those after the model. Folders that the list
    names outside of the source are not followed.
    """
    modules = source / "modules.json"
    if not modules.is_file():
        return
    # The second has the family's name in older folders: sentence_roberta_config.json.
    for pattern in ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json"):
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    try:
        entries = json.loads(modules.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LosparseError(f"'{modules}' is not valid JSON: {error}") from None
    listed = entries if isinstance(entries, list) else []
    paths = [Path(str(entry.get("path", ""))) for entry in listed if isinstance(entry, dict)]
    for path in paths:
        inside = path.parts and not path.is_absolute() and ".." not in path.parts
        for file in sorted((source / path).glob("*")) if inside else []:
            if file.suffix in (".json", ".safetensors", ".txt") and file.is_file():
                (folder / path).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / path / file.name)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer as Hugging Face folders are."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
