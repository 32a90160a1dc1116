"""Fine-tuning with the Hugging Face Trainer, with or without compression.

`fine_tune` is a thin user of the Trainer: whoever has a Trainer of his own needs only `compress_`,
`method.callbacks()` and `compact_`.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from losparse_runtime.contract.tensors import TOKENS

from ..calibration.running import Batch
from ..compress import CompressionReport, compact_, compress_, report
from ..data.metrics import metrics_of, perplexity
from ..data.tokens import WINDOW, Tokenized
from ..errors import LosparseError
from ..methods import Method, OneShot
from ..models.embeddings import freeze_embeddings
from .adapters import attach_adapters, merge_adapters, require_lora
from .distill import DistillingTrainer, MeanLossTrainer
from .divergence import DivergenceMixin, require_finite
from .recipe import Training
from .resume import last_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuneResult:
    """What a fine-tuning gave.

    Attributes:
        metrics: of the validation examples, by name: "loss" in nats, and those of the task (`losparse.data.metrics`).
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
    train: Dataset[dict[str, Any]],
    validation: Dataset[dict[str, Any]],
    training: Training,
    *,
    output_dir: Path,
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
            that does not fit, adapters have nothing to stand on, or training diverged.
    """
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
            batches = calibration_batches(model, tokenizer, train, training) if needs_data(method) else ()
        compress_(model, method, batches, targets=targets, ignore=ignore, sequential=sequential, to_train=True)
    if training.freeze_embeddings:
        freeze_embeddings(model)
    adapted = attach_adapters(model, training) if training.lora_rank > 0 else None
    pruning = () if method is None else method.callbacks()
    use_cache = getattr(model.config, "use_cache", None)
    trainer = _trainer(model, tokenizer, train, validation, training, output_dir, teacher, quiet)
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
    metrics = _measure(trainer, task_of(model))
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


def _measure(trainer: Trainer, task: str) -> dict[str, float]:
    """Return the metrics of the validation examples.

    Raises:
        LosparseError: one is NaN or infinite, which no report can hold.
    """
    metrics = {key.removeprefix("eval_"): float(value) for key, value in trainer.evaluate().items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise LosparseError(
                f"the validation {name} must be finite, got {value:g}; lower learning_rate if training went astray, or "
                "give validation examples that have labels"
            )
    if task == "causal-lm":
        metrics["perplexity"] = perplexity(metrics["loss"])
    return metrics


def bf16_is_slow() -> bool:
    """Tell whether training here would be faster in fp32: no accelerator, and a CPU on which torch emulates bf16.

    Measured, a training step of MiniLM on an AVX2 machine: 0.9 s in fp32, 14 s under bf16 autocast; with AVX-512 and
    its bf16 instructions 0.94 s and 0.57 s.
    """
    if torch.accelerator.is_available() or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()  # no public call tells


_LOGGED = 0.01
"""Share of training after which the mean loss is told to callbacks, where there is no bar of the Trainer's own."""

CALIBRATION_EXAMPLES, CALIBRATION_TOKENS = 1024, 32_768
"""What a one-shot method looks at where a recipe does not say: texts, or fewer blocks of a causal model's."""

_IMPORTANCE_ROWS, _IMPORTANCE_BATCH = 128, 16
"""Rows of training on which the importance of blocks is measured, and how many of them at once."""


def needs_data(method: Method) -> bool:
    """Tell whether a method looks at data before training begins."""
    return isinstance(method, OneShot) and method.needs_texts


def calibration_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Dataset[dict[str, Any]], training: Training
) -> list[dict[str, Any]]:
    """Return batches of examples on which a one-shot method is calibrated: spread over the data, seeded."""
    count = training.calibration_examples or CALIBRATION_EXAMPLES
    chosen = np.random.default_rng(training.seed).permutation(len(data))[:count]  # type: ignore[arg-type]
    rows = [data[int(place)] for place in chosen]
    if training.calibration_examples is None:
        tokens = np.cumsum([len(row[TOKENS]) for row in rows])
        rows = rows[: max(1, int((tokens <= CALIBRATION_TOKENS).sum()))]
    rows.sort(key=lambda row: len(row[TOKENS]))
    collate, size = collator(model, tokenizer), training.batch_size
    return [dict(collate(rows[start : start + size])) for start in range(0, len(rows), size)]


def importance_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Dataset[dict[str, Any]]
) -> Iterator[Any]:
    """Yield batches of rows, evenly taken, on which the importance of blocks is measured."""
    collate, count = collator(model, tokenizer), len(data)  # type: ignore[arg-type]
    chosen = [data[row] for row in range(0, count, -(-count // _IMPORTANCE_ROWS))]
    for first in range(0, len(chosen), _IMPORTANCE_BATCH):
        yield collate(chosen[first : first + _IMPORTANCE_BATCH])


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset[dict[str, Any]],
    validation: Dataset[dict[str, Any]],
    training: Training,
    output_dir: Path,
    teacher: nn.Module | None,
    quiet: bool,
) -> Trainer:
    """Build the Trainer of a recipe."""
    saving = training.save_steps is not None
    # The Trainer measures in an order of its own, so the rows themselves must say which question they are windows of.
    windows = isinstance(validation, Tokenized) and validation.windows is not None
    task = task_of(model)
    if task == "question-answering" and not windows:
        logger.warning(
            "the validation rows do not say which of their tokens are the context's, so no accuracy is measured; "
            "losparse.data.examples.tokenize makes rows that do"
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
        label_names=["start_positions", "end_positions", WINDOW] if windows else None,
    )
    options: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": train,
        "eval_dataset": validation.measurable() if isinstance(validation, Tokenized) else validation,
        "processing_class": tokenizer,
        "data_collator": collator(model, tokenizer),
        "compute_metrics": metrics_of(task) if windows or task != "question-answering" else None,
    }
    if teacher is not None and max(training.distill_weight, training.distill_hidden) > 0:
        return _DistillingTrainer(teacher=teacher, recipe=training, **options)
    return _MeanLossTrainer(**options)


class _Careful(DivergenceMixin):
    """Stops where training diverges, and keeps from the model what only the metrics look at."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Return the loss of what the model takes."""
        return super().compute_loss(model, {k: v for k, v in inputs.items() if k != WINDOW}, *args, **options)


class _MeanLossTrainer(_Careful, MeanLossTrainer):
    """A careful `MeanLossTrainer`."""


class _DistillingTrainer(_Careful, DistillingTrainer):
    """A careful `DistillingTrainer`."""


def task_of(model: nn.Module) -> str:
    """Return the task that a model's head is for, by the names of `losparse.data.examples.TASKS`."""
    return task_named(type(model).__name__, getattr(getattr(model, "config", None), "problem_type", None))


def task_named(name: str, problem_type: str | None) -> str:
    """Return the task of an architecture, by its class's name and its config's `problem_type`."""
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return "causal-lm"
    if name.endswith("ForTokenClassification"):
        return "token-classification"
    if name.endswith("ForQuestionAnswering"):
        return "question-answering"
    return "regression" if problem_type == "regression" else "text-classification"


def collator(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return what makes batches of a model's rows: it pads them, but for causal models, whose rows are full."""
    task = task_of(model)
    if task == "causal-lm":
        return default_data_collator
    if task == "token-classification":
        return DataCollatorForTokenClassification(tokenizer)
    if task == "question-answering" and tokenizer.padding_side != "right":
        tokenizer = copy.copy(tokenizer)  # labels are places in a row, which padding in front of it would move
        tokenizer.padding_side = "right"
    return DataCollatorWithPadding(tokenizer)
