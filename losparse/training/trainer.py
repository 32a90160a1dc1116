"""The Trainer of a recipe, and what it measures at the end."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from losparse_runtime.contract.task import Task

from ..data.tasks.base import TaskData
from ..data.tasks.registry import find_data
from ..data.tokens import NOTES, Rows, Tokenized
from ..errors import LosparseError
from .distill import DistillingTrainer, MeanLossTrainer
from .divergence import DivergenceMixin
from .recipe import Training

logger = logging.getLogger(__name__)

_SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
"""What the Trainer says of an evaluation beside its metrics."""

_LOGGED = 0.01
"""Share of training after which the mean loss is told to callbacks, where there is no bar of the Trainer's own."""


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: tuple[Rows, Rows],
    training: Training,
    *,
    task: Task,
    output_dir: Path,
    teacher: nn.Module | None = None,
    quiet: bool = False,
) -> Trainer:
    """Build the Trainer of a recipe.

    Args:
        model: to train.
        tokenizer: pads the batches.
        parts: rows to train on, and rows to measure on.
        training: the recipe's training part.
        task: what the rows are for.
        output_dir: where checkpoints go.
        teacher: model to imitate, where the recipe distils.
        quiet: nothing is printed.

    Raises:
        LosparseError: hidden states are to be imitated and the two models do not fit.
    """
    train, validation = parts
    data = find_data(task)
    # The Trainer measures in an order of its own, so the rows themselves must say what the metric is to know of them.
    noted = isinstance(validation, Tokenized) and validation.notes is not None
    if data.notes and not noted:
        logger.warning(
            "the validation rows do not say %s, so no %s is measured; losparse.data.loading.tokenize makes rows "
            "that do",
            data.notes,
            task.metric,
        )
    options: dict[str, Any] = {
        "model": model,
        "args": _arguments(training, output_dir, [*data.label_keys, NOTES] if noted else None, quiet=quiet),
        "train_dataset": train,
        "eval_dataset": validation.measurable() if isinstance(validation, Tokenized) else validation,
        "processing_class": tokenizer,
        "data_collator": data.collator(tokenizer),
        "compute_metrics": data.metric() if noted or not data.notes else None,
    }
    if teacher is not None and max(training.distill_weight, training.distill_hidden) > 0:
        trainer: Trainer = _DistillingTrainer(teacher=teacher, recipe=training, task=task, **options)
    else:
        trainer = _MeanLossTrainer(**options)
    if quiet:
        trainer.remove_callback(PrinterCallback)  # it prints metrics where there is no progress bar
    return trainer


def validation_metrics(trainer: Trainer, data: TaskData) -> dict[str, float]:
    """Return the metrics of the validation examples.

    Raises:
        LosparseError: one is NaN or infinite, which no report can hold.
    """
    found = {key.removeprefix("eval_"): float(value) for key, value in trainer.evaluate().items()}
    metrics = {name: value for name, value in found.items() if name not in _SPEEDS}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise LosparseError(
                f"the validation {name} must be finite, got {value:g}; lower learning_rate if training went astray, or "
                "give validation examples that have labels"
            )
    loss = metrics.pop("loss")
    return {**metrics, **data.metrics_of_loss(loss), "loss": loss}


def _arguments(
    training: Training, output_dir: Path, label_names: list[str] | None, *, quiet: bool
) -> TrainingArguments:
    """Return a recipe as the Trainer takes it.

    Args:
        training: the recipe's training part.
        output_dir: where checkpoints go.
        label_names: keys of a row that the metric gets; None lets the Trainer find them.
        quiet: nothing is printed.
    """
    saving = training.save_steps is not None
    return TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=2 * training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        lr_scheduler_type="linear",
        warmup_steps=training.warmup_share,  # below 1: a share of all steps
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=training.bf16,
        use_cpu=not torch.accelerator.is_available(),  # or accelerate takes CPU ranks for strangers
        seed=training.seed,
        train_sampling_strategy="group_by_length",  # short texts are not padded to long ones
        save_strategy="steps" if saving else "no",
        save_steps=training.save_steps if saving else 500,
        save_total_limit=1,
        ddp_broadcast_buffers=False,  # scores and masks follow from reduced gradients: every process has them already
        report_to="none",
        disable_tqdm=quiet,
        logging_strategy="steps" if quiet else "no",
        logging_steps=_LOGGED,  # for callbacks, which say it in their own way; nothing else is printed
        logging_nan_inf_filter=False,  # `DivergenceMixin` looks at every loss, and once is enough
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=label_names,
    )


class _Careful(DivergenceMixin):
    """Stops where training diverges, and keeps from the model what only the metrics look at."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Return the loss of what the model takes."""
        return super().compute_loss(model, {k: v for k, v in inputs.items() if k != NOTES}, *args, **options)


class _MeanLossTrainer(_Careful, MeanLossTrainer):
    """A careful `MeanLossTrainer`."""


class _DistillingTrainer(_Careful, DistillingTrainer):
    """A careful `DistillingTrainer`."""
