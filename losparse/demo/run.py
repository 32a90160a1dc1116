"""The whole way on a real model and real texts that need no files of the user's: what `losparse demo` does.

    MiniLM --fine-tune--> dense --LoSparse, keep 0.2--> compressed
    both --export, fp32 and int8--> ONNX --check--> same numbers as PyTorch? --bench--> how fast?

The texts are the docstrings of Python's standard library, to be told apart by the group of modules they come from.
Accuracy is that of the ONNX folders on the test part, which is used once, at the end.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from losparse_export import export_model
from losparse_runtime.contract.files import write_json
from losparse_runtime.contract.progress import SILENT, Progress, StageTimes
from losparse_runtime.contract.task import TASKS

from ..environment import machine, versions
from ..methods import LoSparse
from ..pipeline.steps import train_model
from ..pipeline.texts import tokenize_parts
from ..saving.folder import read_checkpoint
from ..saving.staging import DEMO_REPORT, check_out, staged_folder
from ..training.opening import load_model, load_tokenizer
from ..training.recipe import Recipe, Training
from .docstrings import DocstringData, load_docstrings
from .measure import measure_models
from .model import find_minilm

DENSE_STEPS, COMPRESSED_STEPS = 200, 240


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
        out: folder to write: both checkpoints, an ONNX folder of each in fp32 and in int8, and the report.
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
        report = measure_models(folder, data.test, setup.export, setup.shapes, progress)
        report |= {
            "format": 2,
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
        "compressed": Recipe(training=compressed, method=LoSparse(keep=0.2)),
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
