"""What the head of a sequence classifier answers: one class a text, several, or a number; never changed in silence."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import LosparseError
from . import models
from .checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_SINGLE = "single_label_classification"
_MEANS = {
    _SINGLE: "one class a text",
    "multi_label_classification": "any number of classes a text",
    "regression": "numbers",
}


def check_problem(checkpoint: Checkpoint, task: str, labels: Sequence[str], *, role: str = "model") -> None:
    """Refuse a head that was trained for another problem and would be taken for this one; say when it is replaced.

    Args:
        checkpoint: of a dense model.
        task: to train for.
        labels: of the training data.
        role: what the message calls the model.

    Raises:
        LosparseError: the head has as many outputs as training needs, and its `problem_type` is another.
    """
    outputs, problem = models.outputs_of(checkpoint, task), checkpoint.config.get("problem_type")
    if outputs is None or task not in ("text-classification", "regression") or problem not in _MEANS:
        return
    wanted, needed = ("regression", 1) if task == "regression" else (_SINGLE, len(labels))
    if problem != wanted and outputs == needed:
        other = "give --task regression" if (problem, outputs) == ("regression", 1) else "compress it without --train"
        raise LosparseError(
            f"the head of the {role} '{checkpoint.folder}' gives {_MEANS[problem]} (problem_type {problem!r}), and "
            f"--task {task} trains {_MEANS[wanted]}; {other}, or set problem_type in its config.json to {wanted!r}"
        )
    if problem != wanted or (wanted == "regression" and outputs != needed):
        logger.warning(
            "the head of the %s '%s' (%s, outputs: %d) is replaced by a new one of %d for %s",
            role,
            checkpoint.folder,
            problem,
            outputs,
            needed,
            task,
        )
