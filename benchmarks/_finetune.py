"""MiniLM fine-tuned on a task while, or after, it is compressed: every method at the same training budget.

Every row starts from the dense model fine-tuned on the task, and trains as long again. Choices are made on dev; the
test set is read once per row, after its training. "drop N of 6" keeps N blocks and factors nothing: what a user has
at hand without this library.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _form import form_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction, PreTrainedModel

from losparse import SVD, LoSparse, StructuredPruning, Training, drop_layers
from losparse.data.examples import Examples, split_examples
from losparse.data.loading import tokenize
from losparse.data.metrics import classification
from losparse.methods import FWSVD, LPAF, ROM, Method
from losparse.training.fine_tune import bf16_is_slow, fine_tune

BF16 = not bf16_is_slow()  # rows say which they were trained in; accuracies do not differ by more than seeds do
DENSE = Training(epochs=4, bf16=BF16)
DENSE_RATES = {"sst2": 5e-5, "banking77": 2e-4, "cola": 1e-4}  # the last two beat 5e-5 on dev
COMPRESS = Training(epochs=4, learning_rate=2e-4, bf16=BF16)  # chosen on SST-2's dev set at keep 0.2
DROPPED = replace(COMPRESS, learning_rate=1e-4)  # whole dense blocks: nearer to what a dense model likes
DISTILL = {"distill_weight": 0.5, "distill_hidden": 10.0}  # the only weights tried
KEEPS = {"sst2": (0.3, 0.2, 0.1), "banking77": (0.3, 0.2, 0.1), "cola": (0.3, 0.2)}
LOW_RANK = 0.02  # chosen on SST-2's dev set at keep 0.2
STRUCTURES = ("losparse", "pruning", "narrow", "narrow without low rank")  # what the choice of a structure is between
BETWEEN_STRUCTURES = {("banking77", 0.3), ("banking77", 0.1)}  # where no other row is trained
WITHOUT_NARROW = ("cola",)  # says too little of any method
BLOCKS = 6
HALF = 3


@dataclass(frozen=True)
class Task:
    """One data set.

    Attributes:
        train: to train on.
        dev: to choose on.
        test: read once per row.
        metric: of the table, by its name in `losparse.data.metrics`.
        max_length: tokens of a text.
    """

    train: Examples
    dev: Examples
    test: Examples
    metric: str
    max_length: int


def _stsa(path: Path) -> Examples:
    lines = [line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    labels = [int(label) for label, _ in lines]
    return Examples([text.strip() for _, text in lines], None, labels, ("negative", "positive"))


def _sst2(data: Path) -> Task:
    folder = data / "sst2-harvard"
    train, dev, test = (_stsa(folder / f"{part}.txt") for part in ("train", "dev", "test"))
    return Task(train, dev, test, "accuracy", 64)


def _banking77(data: Path) -> Task:
    folder = data / "banking77"
    names = tuple(json.loads((folder / "categories.json").read_text()))

    def part(name: str) -> Examples:
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as source:
            rows = list(csv.DictReader(source))
        return Examples([row["text"] for row in rows], None, [names.index(row["category"]) for row in rows], names)

    train, dev = split_examples(part("train"), 0.1)
    return Task(train, dev, part("test"), "accuracy", 64)


def _cola(data: Path) -> Task:
    folder = data / "glue-cola"

    def part(name: str) -> Examples:
        rows = [line.split("\t") for line in (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines() if line]
        return Examples([row[3] for row in rows], None, [int(row[1]) for row in rows], ("unacceptable", "acceptable"))

    train, dev = split_examples(part("train"), 0.1)
    return Task(train, dev, part("dev"), "matthews", 48)


TASKS: dict[str, Callable[[Path], Task]] = {"sst2": _sst2, "banking77": _banking77, "cola": _cola}


@dataclass(frozen=True)
class Row:
    """What one row does: a method, or blocks to keep, and its training."""

    method: Method | None
    blocks: int | None
    training: Training


def rows_of(task: str, keep: float) -> dict[str, Row]:
    """Return the rows of one budget that are trained on a task, by name."""
    found = rows(keep)
    if (task, keep) in BETWEEN_STRUCTURES:
        return {name: row for name, row in found.items() if name in STRUCTURES}
    left_out = "narrow" if task in WITHOUT_NARROW else None
    return {name: row for name, row in found.items() if left_out is None or not name.startswith(left_out)}


def rows(keep: float) -> dict[str, Row]:
    """Return the rows of one budget by name."""
    methods: dict[str, Method] = {
        "losparse": LoSparse(keep=keep, low_rank=LOW_RANK, structure="foldable"),
        "pruning": StructuredPruning(keep=keep, structure="foldable"),
        "narrow": LoSparse(keep=keep, low_rank=LOW_RANK, structure="narrow"),
        "narrow without low rank": StructuredPruning(keep=keep, structure="narrow"),
        "lpaf": LPAF(keep=keep),
        "fwsvd": FWSVD(keep=keep),
        "rom": ROM(keep=keep),
        "svd": SVD(keep=keep),
    }
    found = {name: Row(method, None, COMPRESS) for name, method in methods.items()}
    distilled = replace(COMPRESS, **DISTILL)
    for name in ("losparse", "pruning"):
        found[f"{name} + distillation"] = Row(methods[name], None, distilled)
    share = HALF / BLOCKS  # the same budget, in half as many blocks
    halved = LoSparse(keep=keep / share, low_rank=LOW_RANK / share, structure="foldable")
    found[f"losparse in {HALF} of {BLOCKS} blocks + distillation"] = Row(halved, HALF, distilled)
    return found


def dropped() -> dict[str, tuple[Row, float]]:
    """Return the rows of models with fewer blocks, and the share of the layers they keep."""
    found = {}
    for blocks in (3, 2, 1):
        for name, training in (("", DROPPED), (" + distillation", replace(DROPPED, **DISTILL))):
            found[f"{blocks} of {BLOCKS} blocks{name}"] = (Row(None, blocks, training), blocks / BLOCKS)
    return found


class Bench:
    """One task, opened."""

    def __init__(self, name: str, model: Path, data: Path, work: Path) -> None:
        self.name, self.model, self.work = name, model, work / name
        self.task = TASKS[name](data)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        parts = {"train": self.task.train, "dev": self.task.dev, "test": self.task.test}
        self.parts = {
            part: tokenize(examples, self.tokenizer, task="text-classification", max_length=self.task.max_length)
            for part, examples in parts.items()
        }

    def load(self, folder: Path) -> PreTrainedModel:
        """Open a classifier of the task's labels."""
        names = dict(enumerate(self.task.train.label_names))
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()}
        )

    def dense(self, seed: int) -> dict[str, Any]:
        """Fine-tune the dense model, unless that was done."""
        figures = self.work / "dense.json"
        if not figures.is_file():
            torch.manual_seed(seed)  # the new classification head
            dense = replace(DENSE, learning_rate=DENSE_RATES[self.name], seed=seed)
            trained = self._train(self.load(self.model), "dense", Row(None, None, dense))
            figures.write_text(json.dumps(trained))
        found: dict[str, Any] = json.loads(figures.read_text())
        return found

    def row(self, name: str, row: Row, keep: float, seed: int) -> dict[str, Any]:
        """Train one row."""
        model = self.load(self.work / "dense")
        if row.blocks is not None:
            drop_layers(model, row.blocks)
        folder = f"{name.replace(' + ', '+').replace(' ', '-')}-{keep:.2g}-{seed}"
        figures = self._train(model, folder, replace(row, training=replace(row.training, seed=seed)))
        if row.blocks is not None:
            figures["layer_share"] = round(figures["layer_share"] * row.blocks / BLOCKS, 4)
        return figures

    def _train(self, model: PreTrainedModel, folder: str, row: Row) -> dict[str, Any]:
        training = row.training
        needs_teacher = training.distill_weight > 0 or training.distill_hidden > 0
        result = fine_tune(
            model,
            self.tokenizer,
            self.parts["train"],
            self.parts["dev"],
            training,
            output_dir=self.work / "checkpoints" / folder,
            method=row.method,
            teacher=self.load(self.work / "dense") if needs_teacher else None,
            quiet=True,
        )
        out = self.work / folder
        model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        return {
            "metric": self.task.metric,
            "value": round(self._test(model), 4),
            "dev_value": round(result.metrics[self.task.metric], 4),
            "layer_share": round(result.compression.share, 4) if result.compression else 1.0,
            "file_bytes": sum(file.stat().st_size for file in out.glob("*.safetensors")),
            "train_seconds": round(result.seconds),
            "steps": result.steps,
            "training": asdict(training),
            "folder": folder,
            **({} if row.method is None else {"form": form_of(model)}),
        }

    @torch.no_grad()
    def _test(self, model: PreTrainedModel) -> float:
        """Return the table's metric on the test part."""
        items = self.parts["test"]
        order = sorted(range(len(items)), key=lambda place: len(items[place]["input_ids"]))
        logits = np.zeros((len(items), len(self.task.train.label_names)))
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            inputs = [{k: v for k, v in items[place].items() if k != "labels"} for place in chosen]
            logits[chosen] = model(**self.tokenizer.pad(inputs, return_tensors="pt")).logits.numpy()
        labels = np.array([items[place]["labels"] for place in range(len(items))])
        return classification(EvalPrediction(predictions=logits, label_ids=labels))[self.task.metric]
