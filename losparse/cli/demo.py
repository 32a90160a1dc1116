"""`losparse demo OUT`: the whole way on a real model and real texts that need no files of the user's.

    MiniLM --fine-tune--> dense --LoSparse, keep 0.2--> compressed
    both --export--> ONNX --check--> same numbers as PyTorch? --bench--> how fast?

The texts are the docstrings of Python's standard library, to be told apart by the group of modules they come from.
Accuracy is that of the ONNX folders on the test part, which is used once, at the end.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.progress import Phases, Progress

from ..environment import machine, versions
from ..saving.contents import inspect_folder
from ..saving.folder import read_checkpoint
from ..saving.staging import DEMO_REPORT, check_out, staged_folder
from .bench import shown_speedup
from .output import check_json_target, human_bytes, print_table, write_json
from .parser import positive_int
from .progress import StderrProgress

if TYPE_CHECKING:
    from losparse_runtime import Session

    from ..data.examples import Examples
    from ..demo import DocstringData
    from ..training.recipe import Recipe

MAX_LENGTH = 48
"""Tokens of a text; 95 of 100 docstrings are shorter."""

DENSE_STEPS, COMPRESSED_STEPS = 200, 240
SHAPES = [(1, 16), (1, 128), (8, 128)]
"""Texts in a run and tokens in a text, for the times."""

NAMES = ("dense", "compressed")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--steps", type=positive_int, metavar="N", help="steps of each training, for a quick try")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if losparse wrote it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write OUT/report.json to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do all of it, and print one table."""
    from ..demo import find_minilm, load_docstrings

    started = time.perf_counter()
    check_out(options.out, overwrite=options.overwrite)
    check_json_target(options.json)
    progress = StderrProgress(verbose=options.verbose)
    with progress.stage("fetching MiniLM"):
        source = find_minilm()
    with progress.stage("reading docstrings"):
        data = load_docstrings()
    with staged_folder(options.out, overwrite=options.overwrite) as folder:
        recipes = make_recipes(options.steps)
        train_both(source, data, recipes, folder, progress)
        report = measure_both(data, folder, progress)
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
    _print(options.out, report)
    if options.json is not None:
        write_json(options.json, report)
    return 0 if all(row["check"]["passed"] for row in report["models"].values()) else 1


def make_recipes(steps: int | None) -> dict[str, Recipe]:
    """Return how both models are trained; LoSparse starts from the dense model and imitates it.

    Args:
        steps: of each training; None for those that the demo's figures are for.
    """
    from ..methods import LoSparse
    from ..training.recipe import Recipe, Training

    dense = Training(max_steps=steps or DENSE_STEPS, learning_rate=2e-4)
    compressed = Training(max_steps=steps or COMPRESSED_STEPS, learning_rate=3e-4, distill_weight=0.5)
    return {
        "dense": Recipe(training=dense, method=None),
        "compressed": Recipe(training=compressed, method=LoSparse(keep=0.2, low_rank=0.05)),
    }


def train_both(source: Path, data: DocstringData, recipes: dict[str, Recipe], folder: Path, progress: Progress) -> None:
    """Fine-tune MiniLM, compress the result, and save both checkpoints."""
    from losparse_runtime.contract.task import TASKS

    from ..training.opening import load_model, load_tokenizer, quiet_transformers
    from .training import save_model, tokenize_parts, train_model

    task = TASKS[recipes["dense"].task]
    quiet_transformers()
    with progress.stage("opening MiniLM"):
        model = load_model(read_checkpoint(source), task, data.train.label_names, seed=0)
        tokenizer = load_tokenizer(source)
    parts = tokenize_parts(data.train, data.validation, tokenizer, task, MAX_LENGTH, progress)
    with tempfile.TemporaryDirectory() as work:
        train_model(model, tokenizer, parts, recipes["dense"], Path(work), progress, title="fine-tuning (dense)")
        save_model(model, tokenizer, folder / "dense")
        teacher = copy.deepcopy(model)
        train_model(model, tokenizer, parts, recipes["compressed"], Path(work), progress, teacher=teacher)
        save_model(model, tokenizer, folder / "compressed")


def measure_both(data: DocstringData, folder: Path, progress: Progress) -> dict[str, Any]:
    """Export, check and time both models; returns the measured part of the report."""
    from losparse_export import export_model
    from losparse_export.check import check_session, open_reference
    from losparse_runtime import Session, benchmark

    sessions: dict[str, Session] = {}
    rows = {}
    for name in NAMES:
        target = folder / f"{name}-onnx"
        with progress.stage(f"exporting ({name})") as advance:
            export_model(folder / name, target, progress=Phases(advance, "exporting").at)
        sessions[name] = Session(target)
        reference = open_reference(sessions[name], folder / name)
        contents = inspect_folder(folder / name)
        with progress.stage(f"classifying test texts ({name})"):
            right = accuracy(sessions[name], data.test)
        rows[name] = {
            "test_accuracy": right,
            "layer_parameters": sum(layer.parameters for layer in contents.layers),
            "model_parameters": contents.model_parameters,
            "file_bytes": contents.file_bytes,
            "onnx_bytes": inspect_folder(target).file_bytes,
            "check": check_session(sessions[name], reference, (data.test.texts, None), progress=progress).to_dict(),
        }
    times = {
        "format": 1,
        "machine": machine(),
        "versions": versions("onnxruntime", "onnxruntime-gpu", "numpy"),
        **benchmark(sessions, SHAPES, progress=progress).to_dict(),
    }
    for entry in times["models"].values():
        entry["folder"] = Path(entry["folder"]).name  # they were timed before OUT got its name
    return {"models": rows, "bench": times}


def accuracy(session: Session, examples: Examples) -> float:
    """Return the share of texts that the session puts into their class."""
    predicted = session.classify(examples.texts)
    names = examples.label_names
    right = sum(names[label] == result.label for label, result in zip(examples.labels, predicted, strict=True))
    return float(right) / len(examples)


def _print(out: Path, report: dict[str, Any]) -> None:
    dense, compressed = (report["models"][name] for name in NAMES)
    rows = [_row("test accuracy", dense["test_accuracy"], compressed["test_accuracy"], "{:.1%}".format)]
    for title, key, show in (
        ("parameters in layers", "layer_parameters", "{:,}".format),
        ("parameters in model", "model_parameters", "{:,}".format),
        ("checkpoint", "file_bytes", human_bytes),
        ("ONNX", "onnx_bytes", human_bytes),
    ):
        rows.append(_row(title, dense[key], compressed[key], show))
    times = {(row["batch"], row["length"], row["model"]): row for row in report["bench"]["results"]}
    for batch, length in SHAPES:
        before, after = (times[batch, length, name] for name in NAMES)
        medians = [f"{each['median_ms']:.2f}" for each in (before, after)]
        rows.append(
            [
                f"{batch} x {length} tokens, median ms",
                *medians,
                f"{shown_speedup(after['speedup'], after['speedup_low'], after['speedup_high'])} faster",
            ]
        )
    differences = [row["check"]["parts"]["texts"]["max_abs"] for row in (dense, compressed)]
    shown = ["not finite" if each is None else f"{each:.1e}" for each in differences]
    rows.append(["largest difference to PyTorch", *shown, ""])
    classes, count = len(report["labels"]), report["examples"]["test"]
    title = f"{out}: {count} test texts of {classes} classes; {report['total_seconds']:.0f} s in all"
    print_table(title, ["", *NAMES, "compressed / dense"], rows)


def _row(title: str, dense: float, compressed: float, show: Any) -> list[str]:
    return [title, show(dense), show(compressed), f"{compressed / dense:.1%}" if dense else "-"]
