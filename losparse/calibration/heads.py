"""What a head's logits are distributions over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losparse_runtime.contract.task import TASK_FIELD, find_task


def decides_each_class(model: Any) -> bool:
    """Tell whether any number of a model's classes applies to a text, so that each logit is a decision of its own."""
    config = getattr(model, "config", None)
    problem, named = getattr(config, "problem_type", None), getattr(config, TASK_FIELD, None)
    task = find_task(type(model).__name__, problem, named=named)
    return task is not None and task.labels == "classes"


def yes_or_no(logits: Tensor) -> Tensor:
    """Return logits of two outcomes for each decision: that a class applies, whose logit is given, or does not.

    Args:
        logits: of decisions; (..., classes).

    Returns:
        (..., classes, 2). Their softmax is the sigmoid of the logit, and the rest.
    """
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)
