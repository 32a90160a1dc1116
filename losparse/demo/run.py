"""The whole way on a real model and real texts that need no files of the user's: what `losparse demo` does.

    MiniLM --fine-tune--> dense --LoSparse, keep 0.2--> compressed
    both --export--> ONNX --check--> same numbers as PyTorch? --bench--> how fast?

The texts are the docstrings of Python's standard library, to be told apart by the group of modules they come from.
Accuracy is that of the ONNX folders on the test part, which is used once, at the end.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from losparse_export import export_model
from losparse_export.check import check_session, open_reference
from losparse_runtime import Session, benchmark
from losparse_runtime.contract.files import write_json
from losparse_runtime.contract.progress import SILENT, Advance, Progress, StageTimes
from losparse_runtime.contract.task import TASKS

from ..data.examples import Examples
from ..environment import machine, timing_report, versions
from ..methods import LoSparse
from ..pipeline.steps import train_model
from ..pipeline.texts import tokenize_parts
from ..saving.contents import inspect_folder
from ..saving.folder import read_checkpoint
from ..saving.staging import DEMO_REPORT, check_out, staged_folder
from ..training.opening import load_model, load_tokenizer
from ..training.recipe import Recipe, Training
from .docstrings import DocstringData, load_docstrings
from .model import find_minilm

DENSE_STEPS, COMPRESSED_STEPS = 200, 240
NAMES = ("dense", "compressed")


@dataclass(frozen=True)
class DemoSetup:
    """What the demo is made of.

    Attributes:
        find_model: returns the folder of the dense model.
        load_data: returns the texts.
        export: writes a checkpoint as an ONNX folder.
        max_length: tokens of a text; 95 of 100 docstrings are shorter.
        shapes: texts in a run and tokens in a text, for the times.
    """

    find_model: Callable[[], Path] = find_minilm
    load_data: Callable[[], DocstringData] = load_docstrings
    export: Callable[..., object] = export_model
    max_length: int = 48
    shapes: Sequence[tuple[int, int]] = ((1, 16), (1, 128), (8, 128))


def run_demo(
    out: str | Path,
    *,
    steps: int | None = None,
    overwrite: bool = False,
    setup: DemoSetup | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train, compress, export, check and time.

    Args:
        out: folder to write: both checkpoints, both ONNX folders and the report.
        steps: of each training; None for those that the demo's figures are for.
        overwrite: replace `out` if losparse wrote it.
        setup: what it is made of.
        progress: shows the stages.

    Returns:
        The report, as JSON values.

    Raises:
        LosparseError: the model cannot be fetched, there are too few texts, or `out` may not be written.
    """
    started = time.perf_counter()
    check_out(Path(out), overwrite=overwrite)
    setup, progress = setup or DemoSetup(), StageTimes(progress)
    with progress.stage("fetching MiniLM"):
        source = setup.find_model()
    with progress.stage("reading docstrings"):
        data = setup.load_data()
    recipes = make_recipes(steps)
    with staged_folder(Path(out), overwrite=overwrite) as folder:
        _train_both(source, data, recipes, folder, setup.max_length, progress)
        report = _measure_both(data, folder, setup, progress)
        report |= {
            "format": 1,
            "examples": {part: len(examples) for part, examples in data._asdict().items()},
            "labels": list(data.test.label_names),
            "recipes": {name: recipe.to_dict() for name, recipe in recipes.items()},
            "seconds": progress.seconds,
            "total_seconds": time.perf_counter() - started,
            "machine": machine(),
            "versions": versions("torch", "transformers", "onnx", "onnxruntime"),
        }
        write_json(folder / DEMO_REPORT, report)
    return report


def make_recipes(steps: int | None) -> dict[str, Recipe]:
    """Return how both models are trained; LoSparse starts from the dense model and imitates it.

    Args:
        steps: of each training; None for those that the demo's figures are for.
    """
    dense = Training(max_steps=steps or DENSE_STEPS, learning_rate=2e-4)
    compressed = Training(max_steps=steps or COMPRESSED_STEPS, learning_rate=3e-4, distill_weight=0.5)
    return {
        "dense": Recipe(training=dense, method=None),
        "compressed": Recipe(training=compressed, method=LoSparse(keep=0.2, low_rank=0.05)),
    }


def _train_both(
    source: Path, data: DocstringData, recipes: dict[str, Recipe], folder: Path, length: int, progress: Progress
) -> None:
    """Fine-tune a model, compress the result, and save both checkpoints."""
    task = TASKS[recipes["dense"].task]
    with progress.stage("opening MiniLM"):
        model = load_model(read_checkpoint(source), task, data.train.label_names, seed=0)
        tokenizer = load_tokenizer(source)
    parts = tokenize_parts(data.train, data.validation, tokenizer, task, length, progress)
    with tempfile.TemporaryDirectory() as work:
        train_model(model, tokenizer, parts, recipes["dense"], Path(work), progress, title="fine-tuning (dense)")
        _save(model, tokenizer, folder / "dense")
        teacher = copy.deepcopy(model)
        train_model(model, tokenizer, parts, recipes["compressed"], Path(work), progress, teacher=teacher)
        _save(model, tokenizer, folder / "compressed")


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class _Named:
    """A progress that says of which model its stages are."""

    inner: Progress
    name: str

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Show a stage; see `Progress`."""
        return self.inner.stage(f"{title} ({self.name})", total)


def _measure_both(data: DocstringData, folder: Path, setup: DemoSetup, progress: Progress) -> dict[str, Any]:
    """Export, check and time both models; returns the measured part of the report."""
    sessions: dict[str, Session] = {}
    rows = {}
    for name in NAMES:
        target = folder / f"{name}-onnx"
        setup.export(folder / name, target, progress=_Named(progress, name))
        sessions[name] = Session(target)
        rows[name] = _measure(sessions[name], folder / name, data.test, progress, name)
    times = timing_report(benchmark(sessions, setup.shapes, progress=progress).to_dict())
    for entry in times["models"].values():
        entry["folder"] = Path(entry["folder"]).name  # they were timed before OUT got its name
    return {"models": rows, "bench": times}


def _measure(session: Session, checkpoint: Path, test: Examples, progress: Progress, name: str) -> dict[str, Any]:
    """Return what is reported of one model."""
    reference = open_reference(session, checkpoint)
    contents = inspect_folder(checkpoint)
    with progress.stage(f"classifying test texts ({name})"):
        right = accuracy(session, test)
    return {
        "test_accuracy": right,
        "layer_parameters": sum(layer.parameters for layer in contents.layers),
        "model_parameters": contents.model_parameters,
        "file_bytes": contents.file_bytes,
        "onnx_bytes": inspect_folder(session.folder).file_bytes,
        "check": check_session(session, reference, (test.texts, None), progress=progress).to_dict(),
    }


def accuracy(session: Session, examples: Examples) -> float:
    """Return the share of texts that the session puts into their class."""
    predicted = session.classify(examples.texts)
    names = examples.label_names
    right = sum(names[label] == result.label for label, result in zip(examples.labels, predicted, strict=True))
    return float(right) / len(examples)
