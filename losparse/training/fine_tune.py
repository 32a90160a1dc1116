"""Fine-tuning with the Hugging Face Trainer, with or without compression.

`fine_tune` is a thin user of the Trainer: whoever has a Trainer of his own needs only `compress_`,
`method.callbacks()` and `compact_`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)

from losparse_runtime.contract.task import TASK_FIELD, Task, find_task

from ..calibration.running import Batch
from ..compress import compact_, compress_
from ..data.tasks.registry import TASK_DATA, find_data, find_trained
from ..data.tokens import Rows
from ..errors import LosparseError
from ..methods import Method
from ..models.embeddings import freeze_embeddings
from ..models.report import CompressionReport, report
from .adapters import attach_adapters, merge_adapters, require_lora
from .batches import calibration_batches, needs_data
from .divergence import require_finite
from .recipe import Training
from .resume import last_checkpoint
from .trainer import make_trainer, validation_metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuneResult:
    """What a fine-tuning gave.

    Attributes:
        metrics: of the validation examples, by name: those of the task (`losparse.data.tasks`), then "loss" in nats.
        steps: optimizer steps.
        seconds: wall time of training, evaluation not counted.
        compression: what is stored now, when a method was given.
        log: "step", "loss" (mean since the row before) and "learning_rate", a row every few steps, and "kept_share",
            which share of what is pruned the schedule keeps, of methods that have one; of a training that went on
            after a cut, those before it too.
    """

    metrics: dict[str, float]
    steps: int
    seconds: float
    compression: CompressionReport | None
    log: tuple[Mapping[str, float], ...] = ()


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
    _check_teacher(training, teacher)
    compressing = {"targets": targets, "ignore": ignore or None, "calibration": calibration, "sequential": sequential}
    _refuse_idle(method, [name for name, value in compressing.items() if value is not None])
    require_lora(training, method)
    warn_of_slow_bf16(training, slow=bf16_is_slow)
    set_seed(training.seed)
    if method is not None:
        batches = calibration
        if batches is None:
            batches = calibration_batches(train, tokenizer, training, task=known) if needs_data(method) else ()
        compress_(model, method, batches, targets=targets, ignore=ignore, sequential=sequential, to_train=True)
    if training.freeze_embeddings:
        freeze_embeddings(model)
    adapted = attach_adapters(model, training) if training.lora_rank > 0 else None
    use_cache = getattr(model.config, "use_cache", None)
    trainer = make_trainer(
        model, tokenizer, (train, validation), training, task=known, output_dir=output_dir, teacher=teacher, quiet=quiet
    )
    for callback in (*(() if method is None else method.callbacks()), *callbacks):
        trainer.add_callback(callback)
    steps, seconds = _train(trainer, output_dir, resume=resume)
    if adapted is not None:
        merge_adapters(adapted)
    compression = None
    if method is not None:
        compact_(model, method)
        compression = report(model)
    metrics = validation_metrics(trainer, find_data(known))
    # Under autocast only while it is trained: whoever runs it next says in which precision.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.eval().requires_grad_(True)
    _name_task(model, known)
    if use_cache is not None:
        model.config.use_cache = use_cache  # the Trainer turns it off, which is for training alone
    return FineTuneResult(metrics, steps, seconds, compression, _log_of(trainer))


def _log_of(trainer: Trainer) -> tuple[Mapping[str, float], ...]:
    """Return what the Trainer logged while it trained."""
    names = ("step", "loss", "learning_rate", "kept_share")
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return tuple({name: row[name] for name in names if name in row} for row in rows)


def _train(trainer: Trainer, output_dir: Path, *, resume: bool) -> tuple[int, float]:
    """Train, from the last whole checkpoint if it is asked for; returns the steps taken, and the wall time in seconds.

    Raises:
        LosparseError: training diverged.
    """
    first = trainer.is_world_process_zero()
    checkpoint = last_checkpoint(output_dir, clean=first) if resume else None
    if resume and checkpoint is None and first:
        logger.warning("nothing to go on with at '%s': starts anew", output_dir)
    started = time.perf_counter()
    trained = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - started
    require_finite(trainer.model, trained.global_step)
    return trained.global_step, seconds


def _check_teacher(training: Training, teacher: nn.Module | None) -> None:
    """Refuse a teacher that nothing is learned from, and imitation without one.

    Raises:
        LosparseError: see above.
    """
    for name in ("distill_weight", "distill_hidden"):
        if getattr(training, name) > 0 and teacher is None:
            raise LosparseError(f"{name} is above 0, which needs a teacher model; pass teacher=, or set it to 0")
    if teacher is not None and training.distill_weight == training.distill_hidden == 0:
        raise LosparseError("teacher= is imitated by distill_weight or distill_hidden, and both are 0; set one above 0")


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


def warn_of_slow_bf16(training: Training, *, slow: Callable[[], bool]) -> None:
    """Say that bf16 costs more than it saves, where it does.

    Args:
        training: may ask for bf16.
        slow: tells whether this machine is slow at it; not asked where bf16 is off.
    """
    if training.bf16 and slow():
        logger.warning(
            "bf16 is on, but this processor has no instructions that help it (AVX-512 on x86): expect training more "
            "than ten times slower than in fp32; leave bf16 out here"
        )


def bf16_is_slow() -> bool:
    """Tell whether training here would be faster in fp32: no accelerator, and a CPU on which torch emulates bf16.

    Measured, a training step of MiniLM on an AVX2 machine: 0.9 s in fp32, 14 s under bf16 autocast; with AVX-512 and
    its bf16 instructions 0.94 s and 0.57 s.
    """
    if torch.accelerator.is_available() or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()  # no public call tells


def _task_of(model: nn.Module) -> Task:
    """Return the task that a model's head is for, by its class and its configuration.

    Raises:
        LosparseError: they do not say it.
    """
    config = getattr(model, "config", None)
    outputs = getattr(config, "num_labels", None)
    problem, named = getattr(config, "problem_type", None), getattr(config, TASK_FIELD, None)
    task = find_task(type(model).__name__, problem, outputs, named=named)
    if task is None or task.name not in TASK_DATA:
        raise LosparseError(
            f"what to train {type(model).__name__} for must be said: pass task=, one of {', '.join(TASK_DATA)}"
        )
    return task


def _name_task(model: PreTrainedModel, task: Task) -> None:
    """Write a task's name into a model's configuration where nothing else in it says that task; else take it out."""
    config = model.config
    said = find_task(type(model).__name__, getattr(config, "problem_type", None), getattr(config, "num_labels", None))
    if said is None or said.name != task.name:
        setattr(config, TASK_FIELD, task.name)
    elif hasattr(config, TASK_FIELD):
        delattr(config, TASK_FIELD)
