"""How right a PyTorch model and the folder exported from it are on labelled texts, by the metric of their task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from losparse.data.examples import Examples
from losparse.data.tasks.registry import TASK_DATA
from losparse.errors import LosparseError
from losparse_runtime import Session
from losparse_runtime.contract.files import read_metadata
from losparse_runtime.contract.task import TASKS, Task
from losparse_runtime.engine.options import Provider

from ..opening.load import class_names
from ..opening.task_model import TaskModel
from ..target import CPU
from .answers import answer_outcomes
from .model import Measured, of_pytorch, of_session
from .outcomes import Outcomes, Score, score_all
from .rows import text_outcomes, word_outcomes
from .texts import TextFile

PYTORCH = "pytorch"
"""What the PyTorch model is called beside folders and their variants."""

Measure = Callable[[Measured, Task, Examples], Outcomes]
"""What a model says of labelled texts."""


def find_measure(task: Task) -> Measure | None:
    """Return how a task is measured; None where it has no labels, or nobody reads them."""
    if task.name not in TASK_DATA or task.labels == "none" or task.metric is None:
        return None
    if task.labels == "span":
        return answer_outcomes
    return word_outcomes if task.per_token else text_outcomes


def ask(model: Measured, task: Task, examples: Examples) -> Outcomes:
    """Return what a model says of labelled texts, of a task that `read_labelled` took."""
    measure = find_measure(task)
    assert measure is not None, "read_labelled refuses such tasks"
    return measure(model, task, examples)


def read_labelled(data: TextFile | str | Path, model: TaskModel) -> tuple[str, Examples]:
    """Read labelled texts for a model, and the name of their file.

    Raises:
        LosparseError: the model's task has no labels, its head is not one that they are for, or the file does not fit.
    """
    names = class_names(model.model.config) if model.task.has_classes else None
    return read_for(data, model.task, names, model.model.config.num_labels)


def read_for(
    data: TextFile | str | Path, task: Task, names: Sequence[str] | None, outputs: int
) -> tuple[str, Examples]:
    """Read labelled texts for a task, and the name of their file.

    Args:
        data: the texts.
        task: what they are labelled for.
        names: of the model's classes, by class id; None where labels are no classes.
        outputs: rows of the model's head.

    Raises:
        LosparseError: see `read_labelled`.
    """
    file = data if isinstance(data, TextFile) else TextFile(data)
    if find_measure(task) is None:
        measured = ", ".join(each.name for each in TASKS.values() if find_measure(each) is not None)
        raise LosparseError(
            f"accuracy is measured for {measured}; this model does {task.name}; leave data= (--data) out"
        )
    if task.labels == "number" and outputs != 1:
        raise LosparseError(
            f"accuracy of {task.name} is measured for models of one number, this one gives {outputs}; "
            "leave data= (--data) out"
        )
    return Path(file.file).name, file.examples(names, task.name)


class Accuracy:
    """Measures folders that are exported from one PyTorch model, which answers the labelled texts once.

    Args:
        model: the PyTorch model.
        labelled: as `read_labelled` returns it.
        provider: onnxruntime's name of what runs the folders.
    """

    def __init__(self, model: TaskModel, labelled: tuple[str, Examples], provider: str = CPU.provider) -> None:
        self._model, self._provider = model, provider
        self._file, self._examples = labelled
        self._pytorch: Mapping[str, Score] | None = None

    def of(self, folder: Path, variant: str | None = None) -> dict[str, Any]:
        """Measure one variant of a folder; see `measure_accuracy`."""
        task, examples = self._model.task, self._examples
        session = open_variant(folder, variant, (self._provider,))
        if self._pytorch is None:  # on the tokens of the first folder: all of them have its tokenizer
            self._pytorch = score_all(ask(of_pytorch(self._model, session), task, examples))
        onnx = score_all(ask(of_session(session, told=True), task, examples))
        both = {name: {"pytorch": score.value, "onnx": onnx[name].value} for name, score in self._pytorch.items()}
        metric = str(task.metric)
        beside = onnx[metric].minus(self._pytorch[metric])
        return {
            "file": self._file,
            "texts": len(examples),
            "metric": metric,
            **both[metric],
            "error": onnx[metric].to_json()["error"],
            "differences": {PYTORCH: beside},
            "metrics": both,
        }


def measure_accuracy(
    model: TaskModel,
    folder: Path,
    labelled: tuple[str, Examples],
    provider: str = CPU.provider,
    variant: str | None = None,
) -> dict[str, Any]:
    """Measure a PyTorch model and one variant of the folder exported from it, on the same tokens.

    Args:
        model: the PyTorch model.
        folder: the exported folder.
        labelled: as `read_labelled` returns it.
        provider: onnxruntime's name of what runs the folder.
        variant: which form of the model, where the folder holds several; the first by default.

    Returns:
        "file"; "texts" (their number); "metric" (the one of the task); "pytorch" and "onnx" (its values, as in shares
        of right answers in 0..1); "error", the standard error of the folder's; "differences", whose "pytorch" has
        "delta", the folder's minus PyTorch's, and its "error", as `measure_variants` finds them; "metrics" (all metrics
        of the task, by name).

    Raises:
        LosparseError: the folder has no tokenizer.
    """
    return Accuracy(model, labelled, provider).of(folder, variant)


def open_variant(folder: Path, variant: str | None, providers: Sequence[Provider]) -> Session:
    """Open one variant of a folder, with as many threads as torch has, the first by default."""
    chosen = read_metadata(folder, variant).variant_name
    return Session(folder, providers=providers, threads=torch.get_num_threads(), variant=chosen, unchecked=True)
