"""Fine-tuning with the Hugging Face Trainer, with or without compression.

`fine_tune` is a thin user of the Trainer: whoever has a Trainer of his own needs only `compress_`,
`method.callbacks()` and `compact_`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
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
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from .compress import CompressionReport, compact_, compress_, report
from .errors import LosparseError
from .methods import Method
from .recipe import Training
from .training import freeze_embeddings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuneResult:
    """What a fine-tuning gave.

    Attributes:
        metrics: of the validation examples, by name ("accuracy", "loss"); no unit, in 0..1, and nats.
        steps: optimizer steps.
        seconds: wall time of training, evaluation not counted.
        compression: what is stored now, when a method was given.
    """

    metrics: dict[str, float]
    steps: int
    seconds: float
    compression: CompressionReport | None


class MeanLossTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is the mean of one batch, whatever the number of processes and accumulated batches.

    The Trainer hands models that accept it the number of items of all accumulated batches and then takes their loss
    for a sum over those items. Classifiers such as BERT's ignore it and return a mean, so their loss and gradients
    would grow with the number of processes and of accumulated batches, and clipping would cut them.
    """

    loss_is_scaled_for_ga = False  # the Trainer divides it by the number of accumulated batches

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the model's own mean loss."""
        return super().compute_loss(model, inputs, return_outputs=return_outputs)


class DistillingTrainer(MeanLossTrainer):
    """A Trainer whose loss is a mixture of the task's and of imitating a teacher's logits.

    References:
        Hinton et al., arXiv:1503.02531: KL at temperature T, times T^2 to keep the gradient's size.
    """

    def __init__(self, *, teacher: nn.Module, weight: float, temperature: float, **kwargs: Any) -> None:
        """Remember the teacher, which is put into evaluation mode and never trained."""
        super().__init__(**kwargs)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.weight, self.temperature = weight, temperature

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return (1 - weight) * task loss + weight * T^2 * KL(teacher || student)."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if model.training:  # evaluation reports the task's loss alone
            with torch.no_grad():
                targets = self.teacher(**{key: value for key, value in inputs.items() if "label" not in key})
            imitation = torch.stack(
                [
                    distillation_loss(outputs[name], targets[name], inputs.get("labels"), self.temperature)
                    for name in ("logits", "start_logits", "end_logits")
                    if name in outputs
                ]
            ).mean()
            loss = (1.0 - self.weight) * loss + self.weight * imitation
        return (loss, outputs) if return_outputs else loss


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of softened distributions, averaged over rows.

    Args:
        student: logits; (..., classes).
        teacher: logits; (..., classes).
        labels: rows labelled -100 are left out when it has one label per row; (...).
        temperature: T, above 0.

    Returns:
        In nats; ().
    """
    rows = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=-1),
        F.log_softmax(teacher.float() / temperature, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    if labels is not None and labels.shape == rows.shape and rows.dim() > 1:
        rows = rows[labels != -100]
    return rows.mean() * temperature**2


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
    resume: bool = False,
    quiet: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> FineTuneResult:
    """Train a model, and compress it while it trains when a method is given.

    Args:
        model: changed in place; afterwards in evaluation mode and, with a method, compact.
        tokenizer: pads the batches.
        train: items of unpadded token ids and labels.
        validation: the same; evaluated once, at the end.
        training: the recipe's training part.
        output_dir: where checkpoints go when `training.save_steps` asks for them.
        method: compress before training and compact after it.
        teacher: model to imitate; needed when `training.distill_weight` is above 0.
        targets: patterns of layers to compress.
        ignore: patterns of layers to leave dense.
        resume: go on from the last checkpoint in `output_dir`; without one, start.
        quiet: no progress bar.
        callbacks: more callbacks for the Trainer.

    Raises:
        LosparseError: a layer cannot be compressed, the schedule does not fit, or distillation has no teacher.
    """
    if training.distill_weight > 0 and teacher is None:
        raise LosparseError("distill_weight is above 0, which needs a teacher model; pass teacher=, or set it to 0")
    set_seed(training.seed)
    if method is not None:
        compress_(model, method, targets=targets, ignore=ignore)
    if training.freeze_embeddings:
        freeze_embeddings(model)
    pruning = () if method is None else method.callbacks()
    trainer = _trainer(model, tokenizer, train, validation, training, output_dir, teacher, quiet)
    for callback in (*pruning, *callbacks):
        trainer.add_callback(callback)
    if quiet:
        trainer.remove_callback(PrinterCallback)  # it prints metrics where there is no progress bar
    checkpoint = get_last_checkpoint(str(output_dir)) if resume and output_dir.is_dir() else None
    started = time.perf_counter()
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    compression = None
    if method is not None:
        compact_(model, method)
        compression = report(model)
    metrics = {key.removeprefix("eval_"): float(value) for key, value in trainer.evaluate().items()}
    model.eval().requires_grad_(True)
    return FineTuneResult(metrics=metrics, steps=trained.global_step, seconds=seconds, compression=compression)


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
        logging_strategy="no",
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    token_level = type(model).__name__.endswith("ForTokenClassification")
    collate = DataCollatorForTokenClassification if token_level else DataCollatorWithPadding
    options: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": train,
        "eval_dataset": validation,
        "processing_class": tokenizer,
        "data_collator": collate(tokenizer),
        "compute_metrics": accuracy,
    }
    if training.distill_weight > 0 and teacher is not None:
        weight, temperature = training.distill_weight, training.distill_temperature
        return DistillingTrainer(teacher=teacher, weight=weight, temperature=temperature, **options)
    return MeanLossTrainer(**options)


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the share of right answers: of texts, of labelled tokens, or of exact answer spans."""
    logits, labels = prediction.predictions, prediction.label_ids
    if isinstance(logits, tuple) and isinstance(labels, tuple):  # question answering: start and end
        right = np.stack([_right(one, truth) for one, truth in zip(logits, labels, strict=False)])
        return {"accuracy": float(np.all(right, axis=0).mean())}
    if isinstance(logits, tuple):
        logits = logits[0]
    counted = labels != -100
    return {"accuracy": float(_right(logits, labels)[counted].mean())}


def _right(logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = logits.argmax(-1) == labels
    return result
