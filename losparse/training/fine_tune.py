"""Fine-tuning with the Hugging Face Trainer, with or without compression.

`fine_tune` is a thin user of the Trainer: whoever has a Trainer of his own needs only `compress_`,
`method.callbacks()` and `compact_`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from losparse_runtime.contract.task import Task, find_task

from ..calibration.running import Batch
from ..compress import compact_, compress_
from ..data.tasks.base import TaskData
from ..data.tasks.registry import TASK_DATA, find_data, find_trained
from ..data.tokens import NOTES, Rows, Tokenized
from ..errors import LosparseError
from ..methods import Method
from ..models.embeddings import freeze_embeddings
from ..models.report import CompressionReport, report
from .adapters import attach_adapters, merge_adapters, require_lora
from .batches import calibration_batches, needs_data
from .distill import DistillingTrainer, MeanLossTrainer
from .divergence import DivergenceMixin, require_finite
from .recipe import Training
from .resume import last_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuneResult:
    """What a fine-tuning gave.

    Attributes:
        metrics: of the validation examples, by name: those of the task (`losparse.data.tasks`), then "loss" in nats.
        steps: optimizer steps.
        seconds: wall time of training, evaluation not counted.
        compression: what is stored now, when a method was given.
    """

    metrics: dict[str, float]
    steps: int
    seconds: float
    compression: CompressionReport | None


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Rows,
    validation: Rows,
    training: Training,
    *,
    output_dir: Path,
    task: str | Task | None = None,
    method: Method | None = None,
    teacher: nn.Module | None = None,
    targets: tuple[str, ...] | None = None,
    ignore: tuple[str, ...] = (),
    calibration: Sequence[Batch] | None = None,
    sequential: bool | None = None,
    resume: bool = False,
    quiet: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> FineTuneResult:
    """Train a model, and compress it while it trains when a method is given.

    Args:
        model: changed in place; afterwards in evaluation mode and, with a method, compact.
        tokenizer: pads the batches.
        train: items of unpadded token ids and labels; of one length for a causal model.
        validation: the same; evaluated once, at the end.
        training: the recipe's training part.
        output_dir: where checkpoints go when `training.save_steps` asks for them.
        task: what the model is trained for; default: what its class and configuration say.
        method: compress before training and compact after it.
        teacher: model to imitate; needed when `training.distill_weight` or `distill_hidden` is above 0.
        targets: patterns of layers to compress.
        ignore: patterns of layers to leave dense.
        calibration: batches that a one-shot method looks at; default: some training examples, if it needs any.
        sequential: see `compress_`.
        resume: go on from the last whole checkpoint in `output_dir`; without one, start.
        quiet: no progress bar.
        callbacks: more callbacks for the Trainer.

    Raises:
        LosparseError: a layer cannot be compressed, the schedule does not fit, distillation has no teacher or one
            that does not fit, adapters have nothing to stand on, nothing says the task, or training diverged.
    """
    known = _task_of(model) if task is None else find_trained(task)
    for name in ("distill_weight", "distill_hidden"):
        if getattr(training, name) > 0 and teacher is None:
            raise LosparseError(f"{name} is above 0, which needs a teacher model; pass teacher=, or set it to 0")
    if teacher is not None and training.distill_weight == training.distill_hidden == 0:
        raise LosparseError("teacher= is imitated by distill_weight or distill_hidden, and both are 0; set one above 0")
    compressing = {"targets": targets, "ignore": ignore or None, "calibration": calibration, "sequential": sequential}
    _refuse_idle(method, [name for name, value in compressing.items() if value is not None])
    require_lora(training, method)
    if training.bf16 and bf16_is_slow():
        logger.warning(
            "bf16 is on, but this processor has no instructions that help it (AVX-512 on x86): expect training more "
            "than ten times slower than in fp32; leave bf16 out here"
        )
    set_seed(training.seed)
    if method is not None:
        batches = calibration
        if batches is None:
            batches = calibration_batches(train, tokenizer, training, task=known) if needs_data(method) else ()
        compress_(model, method, batches, targets=targets, ignore=ignore, sequential=sequential, to_train=True)
    if training.freeze_embeddings:
        freeze_embeddings(model)
    adapted = attach_adapters(model, training) if training.lora_rank > 0 else None
    pruning = () if method is None else method.callbacks()
    use_cache = getattr(model.config, "use_cache", None)
    trainer = _trainer(model, tokenizer, train, validation, training, output_dir, known, teacher, quiet)
    for callback in (*pruning, *callbacks):
        trainer.add_callback(callback)
    if quiet:
        trainer.remove_callback(PrinterCallback)  # it prints metrics where there is no progress bar
    checkpoint = last_checkpoint(output_dir, clean=trainer.is_world_process_zero()) if resume else None
    if resume and checkpoint is None and trainer.is_world_process_zero():
        logger.warning("nothing to go on with at '%s': starts anew", output_dir)
    started = time.perf_counter()
    trained = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - started
    require_finite(model, trained.global_step)
    if adapted is not None:
        merge_adapters(adapted)
    compression = None
    if method is not None:
        compact_(model, method)
        compression = report(model)
    metrics = _measure(trainer, find_data(known))
    model.eval().requires_grad_(True)
    if use_cache is not None:
        model.config.use_cache = use_cache  # the Trainer turns it off, which is for training alone
    return FineTuneResult(metrics=metrics, steps=trained.global_step, seconds=seconds, compression=compression)


def _refuse_idle(method: Method | None, given: Sequence[str]) -> None:
    """Refuse arguments that the method has no use for; `compress_` looks at `sequential` itself.

    Raises:
        LosparseError: one of the arguments would change nothing.
    """
    if method is None and given:
        raise LosparseError(f"{given[0]}= is for compressing, and there is no method; leave it out, or pass method=")
    if method is not None and "calibration" in given and not needs_data(method):
        name = type(method).__name__
        raise LosparseError(f"calibration= is for methods that look at texts, {name} does not; leave it out")


def _measure(trainer: Trainer, data: TaskData) -> dict[str, float]:
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


def bf16_is_slow() -> bool:
    """Tell whether training here would be faster in fp32: no accelerator, and a CPU on which torch emulates bf16.

    Measured, a training step of MiniLM on an AVX2 machine: 0.9 s in fp32, 14 s under bf16 autocast; with AVX-512 and
    its bf16 instructions 0.94 s and 0.57 s.
    """
    if torch.accelerator.is_available() or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()  # no public call tells


_SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
"""What the Trainer says of an evaluation beside its metrics."""

_LOGGED = 0.01
"""Share of training after which the mean loss is told to callbacks, where there is no bar of the Trainer's own."""


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Rows,
    validation: Rows,
    training: Training,
    output_dir: Path,
    task: Task,
    teacher: nn.Module | None,
    quiet: bool,
) -> Trainer:
    """Build the Trainer of a recipe."""
    saving = training.save_steps is not None
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
    arguments = TrainingArguments(
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
        logging_nan_inf_filter=False,  # `diverged` looks at every loss, and once is enough
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=[*data.label_keys, NOTES] if noted else None,
    )
    options: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": train,
        "eval_dataset": validation.measurable() if isinstance(validation, Tokenized) else validation,
        "processing_class": tokenizer,
        "data_collator": data.collator(tokenizer),
        "compute_metrics": data.metric() if noted or not data.notes else None,
    }
    if teacher is not None and max(training.distill_weight, training.distill_hidden) > 0:
        return _DistillingTrainer(teacher=teacher, recipe=training, task=task, **options)
    return _MeanLossTrainer(**options)


class _Careful(DivergenceMixin):
    """Stops where training diverges, and keeps from the model what only the metrics look at."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Return the loss of what the model takes."""
        return super().compute_loss(model, {k: v for k, v in inputs.items() if k != NOTES}, *args, **options)


class _MeanLossTrainer(_Careful, MeanLossTrainer):
    """A careful `MeanLossTrainer`."""


class _DistillingTrainer(_Careful, DistillingTrainer):
    """A careful `DistillingTrainer`."""


def _task_of(model: nn.Module) -> Task:
    """Return the task that a model's head is for, by its class and its configuration.

    Raises:
        LosparseError: they do not say it.
    """
    config = getattr(model, "config", None)
    outputs = getattr(config, "num_labels", None)
    task = find_task(type(model).__name__, getattr(config, "problem_type", None), outputs)
    if task is None or task.name not in TASK_DATA:
        raise LosparseError(
            f"what to train {type(model).__name__} for must be said: pass task=, one of {', '.join(TASK_DATA)}"
        )
    return task
