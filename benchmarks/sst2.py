"""The real run: MiniLM on SST-2, LoSparse against its two halves at the same training budget.

    python benchmarks/sst2.py --model MINILM_DIR --data SST2_DIR --work WORK_DIR [--only losparse:0.2:rows ...]
    python benchmarks/sst2.py ... --tune --only losparse:0.2:foldable --learning-rate 2e-4 --low-rank 0.02

MINILM_DIR is a Hugging Face folder of all-MiniLM-L6-v2; SST2_DIR holds stsa.binary's train.txt, dev.txt and test.txt
("label text" per line). The dense model is fine-tuned first; every row starts from it and trains as long again, and
so does the dense model itself ("dense, as much training"), so that nobody wins by training longer. Choices are made
on dev, with --tune, which does not read the test set; the labelled test set is read once per row, after its training.
Finished rows are not run again; models stay in WORK_DIR.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from _results import has_row, locked, machine, versions
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import losparse
from losparse import SVD, LoSparse, StructuredPruning, Training
from losparse.data.examples import Examples
from losparse.data.loading import tokenize
from losparse.methods import Method, method_to_dict
from losparse.training.fine_tune import fine_tune

RESULTS = Path(__file__).parent / "results" / "sst2.json"
DENSE = Training(epochs=4, learning_rate=5e-5, seed=0)
COMPRESS = Training(epochs=4, learning_rate=2e-4, seed=0)  # 1e-4 for rows that are older than the choice on dev
MAX_LENGTH = 64  # the longest of 9,613 sentences has 66 word pieces; 3 of them lose their last words
LOW_RANK = 0.02  # chosen on dev; the paper's GLUE runs have 0.05
ROWS = [
    *(f"{method}:{keep}:foldable" for keep in (0.2, 0.1, 0.5) for method in ("losparse", "pruning")),
    *(f"svd:{keep}:rows" for keep in (0.2, 0.1, 0.5)),
    *(f"{method}:{keep}:rows" for keep in (0.2, 0.1) for method in ("losparse", "pruning")),
    "losparse:0.2:columns",
]


def method_of(kind: str, keep: float, structure: str, low_rank: float) -> Method:
    """Return the method of a row."""
    if kind == "losparse":
        return LoSparse(keep=keep, low_rank=low_rank, structure=structure)  # type: ignore[arg-type]
    return SVD(keep=keep) if kind == "svd" else StructuredPruning(keep=keep, structure=structure)  # type: ignore[arg-type]


def read(path: Path) -> Examples:
    """Read one stsa.binary file."""
    lines = [line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return Examples(
        texts=[text.strip() for _, text in lines],
        pairs=None,
        labels=[int(label) for label, _ in lines],
        label_names=["negative", "positive"],
    )


@torch.no_grad()
def test_accuracy(model: PreTrainedModel, tokenizer: Any, items: Any) -> float:
    """Return the share of right answers, one length-sorted batch after another."""
    order = sorted(range(len(items)), key=lambda i: len(items[i]["input_ids"]))
    right = 0
    for start in range(0, len(order), 64):
        rows = [items[i] for i in order[start : start + 64]]
        batch = tokenizer.pad([{k: v for k, v in row.items() if k != "labels"} for row in rows], return_tensors="pt")
        right += int((model(**batch).logits.argmax(-1) == torch.tensor([row["labels"] for row in rows])).sum())
    return right / len(items)


class Bench:
    """Holds what every row needs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.work: Path = args.work
        self.model: Path = args.model
        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        self.splits = {
            name: tokenize(
                read(args.data / f"{name}.txt"), self.tokenizer, task="text-classification", max_length=MAX_LENGTH
            )
            for name in ("train", "dev", "test")
        }

    def load(self, folder: Path) -> PreTrainedModel:
        """Open a classifier."""
        names = {0: "negative", 1: "positive"}
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=2, id2label=names, label2id={v: k for k, v in names.items()}
        )

    def train(
        self, model: PreTrainedModel, name: str, training: Training, method: Method | None, *, test: bool = True
    ) -> dict[str, Any]:
        """Train one model, save it, and return the figures of its row; the test set is read only if `test`."""
        out = self.work / name
        teacher = self.load(self.work / "dense") if max(training.distill_weight, training.distill_hidden) > 0 else None
        result = fine_tune(
            model,
            self.tokenizer,
            self.splits["train"],
            self.splits["dev"],
            training,
            output_dir=self.work / "checkpoints" / name,
            method=method,
            teacher=teacher,
            quiet=True,
        )
        model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        accuracy = {"dev_accuracy": round(result.metrics["accuracy"], 4)}
        if test:
            accuracy["test_accuracy"] = round(test_accuracy(model, self.tokenizer, self.splits["test"]), 4)
        return {
            **accuracy,
            "layer_share": round(result.compression.share, 4) if result.compression else 1.0,
            "model_parameters": sum(p.numel() for p in model.parameters()),
            "file_bytes": sum(f.stat().st_size for f in out.glob("*.safetensors")),
            "steps": result.steps,
            "train_seconds": round(result.seconds),
            "training": asdict(training),
            "method_settings": method_to_dict(method) if method else None,
        }

    def dense(self) -> None:
        """Fine-tune the dense model, then train it as long again; the better one on dev is the opponent."""
        with locked(RESULTS) as data:
            if "dense_test_accuracy" in data and (self.work / "dense").is_dir():
                return
        torch.manual_seed(0)  # the new classification head
        first = self.train(self.load(self.model), "dense", DENSE, None)
        print("dense", first["dev_accuracy"], first["test_accuracy"], flush=True)
        with locked(RESULTS) as data:
            data |= {"dense_test_accuracy": first["test_accuracy"], "dense": first}
            data |= {"settings": self.settings(), "versions": versions(), "machine": machine()}
            data.setdefault("rows", [])

    def dense_again(self) -> None:
        """Give the dense model the rows' training on top; the better of the two on dev is the opponent."""
        with locked(RESULTS) as data:
            if "dense_as_much_training" in data:
                return
        training = replace(COMPRESS, learning_rate=DENSE.learning_rate)
        second = self.train(self.load(self.work / "dense"), "dense-again", training, None)
        print("dense, as much training", second["dev_accuracy"], second["test_accuracy"], flush=True)
        with locked(RESULTS) as data:
            data["dense_as_much_training"] = second
            if second["dev_accuracy"] >= data["dense"]["dev_accuracy"]:
                data["dense_test_accuracy"] = second["test_accuracy"]

    def row(self, text: str, training: Training, low_rank: float) -> None:
        """Run one row, `method:keep:structure`, unless it is there."""
        kind, keep, structure = text.split(":")
        label = "losparse+distillation" if max(training.distill_weight, training.distill_hidden) > 0 else kind
        key = {"method": label, "keep": float(keep), "structure": structure, "seed": training.seed}
        with locked(RESULTS) as data:
            if has_row(data, key):
                return
        name = f"{label}-{keep}-{structure}-{training.seed}"
        method = method_of(kind, float(keep), structure, low_rank)
        figures = self.tuned(text, training, method)
        if figures is None:
            figures = self.train(self.load(self.work / "dense"), name, training, method)
        print(name, figures["dev_accuracy"], figures["test_accuracy"], f"{figures['train_seconds']} s", flush=True)
        with locked(RESULTS) as data:
            data["rows"].append(key | figures)

    def tuned(self, text: str, training: Training, method: Method) -> dict[str, Any] | None:
        """Return the figures of a row whose very settings were tried on dev: its model is there, the test is not."""
        kind, keep, structure = text.split(":")
        wanted = {"training": asdict(training), "method_settings": method_to_dict(method)}
        with locked(RESULTS) as data:
            tried = [entry for entry in data.get("tuning", []) if wanted.items() <= entry.items()]
        if not tried:
            return None
        out = self.work / f"{kind}-{keep}-{structure}-{training.seed}"
        if not out.is_dir():
            (self.work / tried[-1]["folder"]).rename(out)
        test = round(test_accuracy(self.load(out).eval(), self.tokenizer, self.splits["test"]), 4)
        return {**tried[-1], "test_accuracy": test}

    def tune(self, text: str, training: Training, low_rank: float) -> None:
        """Try settings for a row: dev accuracy alone, kept under "tuning"."""
        kind, keep, structure = text.split(":")
        method = method_of(kind, float(keep), structure, low_rank)
        name = f"tune-{kind}-{keep}-{structure}-{low_rank}-{training.learning_rate:g}-{training.distill_weight:g}"
        figures = self.train(self.load(self.work / "dense"), name, training, method, test=False)
        print(name, figures["dev_accuracy"], f"{figures['train_seconds']} s", flush=True)
        with locked(RESULTS) as data:
            key = {"method": kind, "keep": float(keep), "structure": structure, "seed": training.seed}
            data.setdefault("tuning", []).append(key | figures | {"folder": name})

    def settings(self) -> dict[str, Any]:
        """Return what holds for every row."""
        return {
            "dense": asdict(DENSE),
            "rows": asdict(COMPRESS),
            "max_length": MAX_LENGTH,
            "start": "every row starts from the fine-tuned dense model",
            "losparse": losparse.__version__,
        }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(ROWS), metavar="METHOD:KEEP:STRUCTURE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="try settings: dev accuracy alone")
    parser.add_argument("--low-rank", type=float, default=LOW_RANK, metavar="SHARE")
    parser.add_argument("--learning-rate", type=float, default=COMPRESS.learning_rate, metavar="RATE")
    parser.add_argument("--distill", type=float, default=0.0, metavar="WEIGHT", help="share of distillation")
    parser.add_argument("--distill-hidden", type=float, default=0.0, metavar="WEIGHT", help="of hidden states")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    bench.dense()
    for text in args.only:
        if text == "dense":
            bench.dense_again()
        else:
            training = replace(
                COMPRESS,
                seed=args.seed,
                learning_rate=args.learning_rate,
                distill_weight=args.distill,
                distill_hidden=args.distill_hidden,
            )
            (bench.tune if args.tune else bench.row)(text, training, args.low_rank)


if __name__ == "__main__":
    main()
