"""A checkpoint on labelled texts, by the metrics that training measures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from losparse_runtime.contract.progress import SILENT, Progress
from losparse_runtime.contract.task import TASK_FIELD, Task, find_task

from ..data.labels import names_of_config
from ..data.loading import load_examples, tokenize
from ..data.tasks.registry import TASK_DATA, find_data
from ..errors import LosparseError
from ..saving.folder import Checkpoint, read_checkpoint
from ..saving.source import find_model
from ..training.opening import fit_padding, load_model, load_tokenizer, text_length, transformers_quiet
from ..training.recipe import Training
from ..training.trainer import make_trainer, validation_metrics


def measure_checkpoint(
    source: str | Path,
    data: str | Path,
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure a checkpoint, dense or compressed, on labelled texts, as a training measures its validation texts.

    Args:
        source: a folder or hub id.
        data: labelled texts; see `losparse.data.loading`.
        text_column: of texts, words or questions; default: the usual names.
        pair_column: of second texts or contexts.
        label_column: of labels, tags or answers.
        progress: shows the stages.

    Returns:
        JSON values as `losparse_export.measure_variants` has them: "file", its name; "texts", how many examples;
        "metric", the one of the task; "models", of which the one is "pytorch": "value" of that metric, and of all
        "metrics" by name, with the mean "loss" in nats. No errors: "error" is null.

    Raises:
        LosparseError: the model cannot be opened, has no task with labels, or the texts do not fit it.
    """
    checkpoint = read_checkpoint(find_model(source))
    task = _labelled_task(checkpoint)
    table = checkpoint.config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"})  # transformers writes no other ones out
    names = names_of_config(table) if task.has_classes and isinstance(table, dict) else None
    columns = {"text_column": text_column, "pair_column": pair_column, "label_column": label_column}
    examples = load_examples(data, task=task, label_names=names, split="validation", **columns)
    with transformers_quiet(), tempfile.TemporaryDirectory() as work:
        with progress.stage("opening the model"):
            tokenizer = load_tokenizer(checkpoint.folder)
            model = fit_padding(load_model(checkpoint, task, examples.label_names, 0, head=True), tokenizer)
        rows = tokenize(examples, tokenizer, task=task, max_length=text_length(model, tokenizer, None))
        with progress.stage("measuring on labelled texts"):
            trainer = make_trainer(
                model, tokenizer, (rows, rows), Training(), task=task, output_dir=Path(work), quiet=True
            )
            found = validation_metrics(trainer, find_data(task))
    told = {name: {"value": value, "error": None} for name, value in found.items()}
    metric = str(task.metric)
    models = {"pytorch": {**told[metric], "metrics": told}}
    return {"file": Path(data).name, "texts": len(examples), "metric": metric, "models": models}


def _labelled_task(checkpoint: Checkpoint) -> Task:
    """Return the task of a checkpoint.

    Raises:
        LosparseError: nothing says it, or its texts have no labels.
    """
    config = checkpoint.config
    architecture = next(iter(config.get("architectures") or ()), None)
    names = config.get("id2label")
    outputs = len(names) if isinstance(names, dict) else None
    task = find_task(architecture, config.get("problem_type"), outputs, named=config.get(TASK_FIELD))
    if task is None or task.name not in TASK_DATA or task.labels == "none":
        measured = ", ".join(name for name in TASK_DATA if find_data(name).metric() is not None)
        raise LosparseError(
            f"--data is for models whose texts have labels ({measured}), and '{checkpoint.folder}' is one of "
            f"{'no known task' if task is None else task.name}; a language model takes --texts"
        )
    return task
