"""How right a PyTorch model and the folder exported from it are on labelled texts, by the metric of their task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from losparse.data.examples import Examples
from losparse.data.tasks.registry import TASK_DATA
from losparse.errors import LosparseError
from losparse_runtime import Session
from losparse_runtime.contract.task import TASKS, Task

from ..opening.load import class_names
from ..opening.task_model import TaskModel
from ..target import CPU
from .answers import answer_metrics
from .rows import Metrics, text_metrics, word_metrics
from .texts import TextFile

Measure = Callable[[TaskModel, Session, Examples], tuple[Metrics, Metrics]]
"""Metrics of the PyTorch model and of the folder, on the same tokens."""


def find_measure(task: Task) -> Measure | None:
    """Return how a task is measured; None where it has no labels, or nobody reads them."""
    if task.name not in TASK_DATA or task.labels == "none" or task.metric is None:
        return None
    if task.labels == "span":
        return answer_metrics
    return word_metrics if task.per_token else text_metrics


def read_labelled(data: TextFile | str | Path, model: TaskModel) -> tuple[str, Examples]:
    """Read labelled texts for a model, and the name of their file.

    Raises:
        LosparseError: the model's task has no labels, its head is not one that they are for, or the file does not fit.
    """
    task, config, file = model.task, model.model.config, data if isinstance(data, TextFile) else TextFile(data)
    if find_measure(task) is None:
        measured = ", ".join(each.name for each in TASKS.values() if each.exported and find_measure(each) is not None)
        raise LosparseError(
            f"accuracy is measured for {measured}; this model does {task.name}; leave data= (--data) out"
        )
    if task.labels == "number" and config.num_labels != 1:
        raise LosparseError(
            f"accuracy of {task.name} is measured for models of one number, this one gives {config.num_labels}; "
            "leave data= (--data) out"
        )
    return Path(file.file).name, file.examples(class_names(config) if task.has_classes else None, task.name)


def measure_accuracy(
    model: TaskModel, folder: Path, labelled: tuple[str, Examples], provider: str = CPU.provider
) -> dict[str, Any]:
    """Measure a PyTorch model and the folder exported from it, on the same tokens.

    Args:
        model: the PyTorch model.
        folder: the exported folder.
        labelled: as `read_labelled` returns it.
        provider: onnxruntime's name of what runs the folder.

    Returns:
        "file"; "texts" (their number); "metric" (the one of the task); "pytorch" and "onnx" (its values, as in shares
        of right answers in 0..1); "metrics" (those of all metrics of the task, by name).

    Raises:
        LosparseError: the folder has no tokenizer.
    """
    name, examples = labelled
    measure = find_measure(model.task)
    assert measure is not None, "read_labelled refuses such tasks"
    session = Session(folder, providers=(provider,), threads=torch.get_num_threads(), unchecked=True)
    pytorch, onnx = measure(model, session, examples)
    both = {metric: {"pytorch": value, "onnx": onnx[metric]} for metric, value in pytorch.items()}
    return {
        "file": name,
        "texts": len(examples),
        "metric": model.task.metric,
        **both[str(model.task.metric)],
        "metrics": both,
    }
