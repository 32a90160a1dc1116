"""Training that says how far it is, and whether its schedule fits."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
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

from ..calibration.running import Batch
from ..data.tokens import Tokenized
from ..training.fine_tune import FineTuneResult, fine_tune
from ..training.recipe import Recipe, Training

_CURVE = 200
"""Most rows of a log that a report keeps."""
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
    title: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
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
        title: of the bar; default: what is done.
        callbacks: more callbacks for the Trainer.
    """
    # The Trainer prints its logs on stdout where its own bar is off; stdout is for results.
    title = title or ("fine-tuning" if recipe.method is None else "compressing")
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
            callbacks=(_StepCallback(advance), *callbacks),
        )


def default_save_steps(steps: int) -> int:
    """Return how often to write a checkpoint where the recipe does not say: a tenth of training."""
    return max(1, math.ceil(steps / _SAVES))


def training_curve(log: Sequence[Mapping[str, float]], most: int = _CURVE) -> list[dict[str, float]]:
    """Return what a training logged, in few rows: each stands for several where there are more, its loss their mean.

    Args:
        log: see `FineTuneResult`.
        most: rows to return.
    """
    every = max(1, math.ceil(len(log) / most))
    rows, before = [], 0.0
    for place in range(0, len(log), every):
        group = log[place : place + every]
        steps = [
            row["step"] - last for row, last in zip(group, [before, *(row["step"] for row in group)], strict=False)
        ]
        before = group[-1]["step"]
        loss = sum(row["loss"] * count for row, count in zip(group, steps, strict=True)) / sum(steps)
        rows.append({**group[-1], "loss": loss})
    return rows
