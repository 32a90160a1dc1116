"""What a checkpoint's head answers, and whether that is what training needs: never changed in silence.

Read from config.json alone, so an unfit model is refused before it is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from losparse_runtime.contract.task import TASKS, Task

from ..data.labels import names_of_config
from ..errors import LosparseError
from ..saving.folder import Checkpoint

logger = logging.getLogger(__name__)

_DEFAULT_CLASSES = 2
"""Classes of a head where config.json does not list them, as transformers leaves two without names out."""
_SHOWN = 5
"""Labels named in a message."""

_MEANS = {"class": "one class a text", "classes": "any number of classes a text", "number": "numbers"}


def labels_of(checkpoint: Checkpoint, task: Task) -> tuple[str, ...] | None:
    """Return the labels of a model that was trained for the task, by class id; None for generic or no labels."""
    table = checkpoint.config.get("id2label")
    if not task.has_classes or not isinstance(table, dict) or outputs_of(checkpoint, task) is None:
        return None
    names = tuple(names_of_config(table))
    return None if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def outputs_of(checkpoint: Checkpoint, task: Task) -> int | None:
    """Return how many outputs the model's head for the task has; None if it has none, or another task's."""
    architectures = checkpoint.config.get("architectures") or []
    if task.outputs_needed(0) is None or not any(str(name).endswith(task.endings) for name in architectures):
        return None
    table = checkpoint.config.get("id2label")
    if task.labels == "span" or not isinstance(table, dict):
        return _DEFAULT_CLASSES
    return len(table)


def warn_of_order(checkpoint: Checkpoint, task: Task, labels: Sequence[str]) -> None:
    """Say in which order texts are taken for the classes of a head that has as many, and does not know these names."""
    differ = labels_of(checkpoint, task) not in (None, tuple(labels))
    if outputs_of(checkpoint, task) == len(labels) and (differ or _has_nameless_head(checkpoint, task, labels)):
        logger.warning(
            "the classes of '%s' are not called %s: these are taken for its classes 0 to %d in this order; if it "
            "learned another, give class ids as labels, or set id2label in its config.json",
            checkpoint.folder,
            _some(labels),
            len(labels) - 1,
        )


def check_teacher(
    checkpoint: Checkpoint, task: Task, labels: Sequence[str], tokenizer_size: int, *, head: bool
) -> None:
    """Refuse a model that cannot teach these labels.

    Args:
        checkpoint: of the teacher.
        task: to train for.
        labels: of the training data, by class id.
        tokenizer_size: tokens that the student's tokenizer has.
        head: whether its outputs are to be imitated, and not its hidden states alone.

    Raises:
        LosparseError: it has other labels or no names for them, has no head for the task while its outputs are to be
            imitated, or knows fewer tokens than the tokenizer has.
    """
    name = f"the teacher '{checkpoint.folder}'"
    vocabulary = int(checkpoint.config.get("vocab_size", tokenizer_size))
    if vocabulary < tokenizer_size:
        raise LosparseError(f"{name} has {vocabulary} tokens, the model's tokenizer {tokenizer_size}")
    if not head:
        return
    outputs, wanted = outputs_of(checkpoint, task), task.outputs_needed(len(labels))
    if wanted is not None and outputs is None:
        raise LosparseError(
            f"{name} has no head for {task.name}; give one fine-tuned for it, or distill_weight 0 (--distill-weight 0)"
        )
    if outputs is not None and outputs != wanted:
        raise LosparseError(f"{name} has a head of {outputs} outputs, training needs {wanted}; give one of the task")
    known = labels_of(checkpoint, task)
    if labels and known is not None and known != tuple(labels):
        raise LosparseError(
            f"{name} has the labels {', '.join(known)}, training has {', '.join(labels)}; "
            "both must have the same in the same order"
        )
    if _has_nameless_head(checkpoint, task, labels):
        raise LosparseError(
            f"{name} does not say which of its classes is {labels[0]}; set id2label in its config.json, or give class "
            "ids as labels"
        )


def check_problem(checkpoint: Checkpoint, task: Task, labels: Sequence[str], *, role: str = "model") -> None:
    """Refuse a head that was trained for another problem and would be taken for this one.

    Args:
        checkpoint: of a dense model.
        task: to train for.
        labels: of the training data.
        role: what the message calls the model.

    Raises:
        LosparseError: the head has as many outputs as training needs, and its `problem_type` is another.
    """
    outputs, trained = outputs_of(checkpoint, task), _trained_for(checkpoint)
    if outputs is None or task.problem is None or trained is None:
        return
    problem = trained.problem
    if problem != task.problem and outputs == task.outputs_needed(len(labels)):
        other = f"train it for {trained.name} (--task), " if trained.outputs_needed(outputs) == outputs else ""
        raise LosparseError(
            f"the head of the {role} '{checkpoint.folder}' gives {_MEANS[trained.labels]} (problem_type {problem!r}), "
            f"and {task.name} is about {_MEANS[task.labels]}; {other}compress it as it is (without --train), or set "
            f"problem_type in its config.json to {task.problem!r}"
        )


def replaced_head(checkpoint: Checkpoint, task: Task, labels: Sequence[str]) -> str | None:
    """Say that training puts a new head in the place of the model's own, and why; None where it does not.

    Args:
        checkpoint: of a dense model, which `check_problem` let pass.
        task: to train for.
        labels: of the training data.
    """
    outputs, needed, trained = outputs_of(checkpoint, task), task.outputs_needed(len(labels)), _trained_for(checkpoint)
    if outputs is None or outputs == needed:
        return None
    if trained is not None and task.problem is not None and (trained.problem != task.problem or not labels):
        return (
            f"the head of the model '{checkpoint.folder}' ({trained.problem}, outputs: {outputs}) is replaced by a new "
            f"one of {needed} for {task.name}"
        )
    known = labels_of(checkpoint, task)
    classes = f"{outputs} classes without names" if known is None else f"the classes {_some(known)}"
    if not labels:
        return f"'{checkpoint.folder}' has {classes}, {task.name} needs outputs: {needed}; a new head is trained"
    return f"'{checkpoint.folder}' has {classes}, the data has {len(labels)}, {_some(labels)}; a new head is trained"


def _some(labels: Sequence[str]) -> str:
    """Return the first labels, for a message."""
    return ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")


def _trained_for(checkpoint: Checkpoint) -> Task | None:
    """Return the task whose problem a model says it was trained for; None where it says none."""
    problem = checkpoint.config.get("problem_type")
    return next((each for each in TASKS.values() if each.problem is not None and each.problem == problem), None)


def _has_nameless_head(checkpoint: Checkpoint, task: Task, labels: Sequence[str]) -> bool:
    """Tell whether a model has a trained head with generic names, where labels are texts."""
    ids = tuple(str(number) for number in range(len(labels)))
    texts = bool(labels) and tuple(labels) not in (ids, tuple(f"LABEL_{number}" for number in ids))
    return texts and outputs_of(checkpoint, task) is not None and labels_of(checkpoint, task) is None
