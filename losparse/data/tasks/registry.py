"""The tasks that a model is trained for, by name: one line each."""

from __future__ import annotations

from losparse_runtime.contract.task import (
    CAUSAL_LM,
    MULTI_LABEL_CLASSIFICATION,
    QUESTION_ANSWERING,
    REGRESSION,
    TASKS,
    TEXT_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Task,
)

from ...errors import LosparseError
from .base import TaskData
from .causal_lm import CausalLm
from .multi_label import MultiLabelClassification
from .question_answering import QuestionAnswering
from .regression import Regression
from .text_classification import TextClassification
from .token_classification import TokenClassification

TASK_DATA: dict[str, TaskData] = {
    TEXT_CLASSIFICATION.name: TextClassification(),
    MULTI_LABEL_CLASSIFICATION.name: MultiLabelClassification(),
    REGRESSION.name: Regression(),
    TOKEN_CLASSIFICATION.name: TokenClassification(),
    QUESTION_ANSWERING.name: QuestionAnswering(),
    CAUSAL_LM.name: CausalLm(),
}

DEFAULT_TASK = TEXT_CLASSIFICATION.name
"""What a recipe is for where it does not say."""


def find_trained(task: str | Task) -> Task:
    """Return a task that a model can be trained for.

    Raises:
        LosparseError: there is none of that name.
    """
    name = task.name if isinstance(task, Task) else task
    if name not in TASK_DATA:
        raise LosparseError(f"task must be one of {', '.join(TASK_DATA)}, got '{name}'")
    return task if isinstance(task, Task) else TASKS[name]


def find_data(task: str | Task) -> TaskData:
    """Return how a task's rows are read, tokenised and measured.

    Raises:
        LosparseError: no model is trained for it.
    """
    return TASK_DATA[find_trained(task).name]


def find_texts(task: str | Task | None) -> TaskData:
    """Return how texts without labels are read and tokenised for a task, also one that no model is trained for.

    Args:
        task: None where nobody knows it.
    """
    name = task.name if isinstance(task, Task) else task
    return TaskData() if name is None else TASK_DATA.get(name, TaskData())
