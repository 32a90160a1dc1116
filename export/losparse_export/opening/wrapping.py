"""The module that is traced and compared for a model: of its task's kind."""

from __future__ import annotations

from transformers import PreTrainedModel

from losparse_runtime.contract.task import Task

from .causal_model import CausalModel
from .task_model import TaskModel


def wrap_model(model: PreTrainedModel, task: Task, tokenizer_limit: int | None = None) -> TaskModel:
    """Return a model with its task.

    Args:
        model: a transformers model.
        task: what it is for.
        tokenizer_limit: see `TaskModel`.
    """
    kind = CausalModel if task.causal else TaskModel
    return kind(model, task, tokenizer_limit)
