"""Sentence embeddings without training: do the dense model's similarities survive?"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _memory import peak_bytes, reset_peak, warm_up
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from losparse import compress_
from losparse.methods import Method

PAIRS = 5000
CALIBRATION_TEXTS = 1024  # as many as the command takes by default
CALIBRATION_BATCH = 16  # what a run holds grows with it
BATCH = 64


def texts(path: Path) -> list[str]:
    """Return the texts of a Banking77 file."""
    with path.open(encoding="utf-8", newline="") as source:
        return [row["text"] for row in csv.DictReader(source)]


@torch.no_grad()
def embeddings(model: PreTrainedModel, tokenizer: Any, sentences: list[str]) -> Tensor:
    """Return the mean of the token vectors of each text, of length 1; (texts, hidden)."""
    found = torch.zeros(len(sentences), model.config.hidden_size)
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))  # little padding
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = tokenizer([sentences[place] for place in places], padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        found[places] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return found


def spearman(first: Tensor, second: Tensor) -> float:
    """Return the rank correlation of two series without ties."""
    ranks = [np.argsort(np.argsort(values.numpy())) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def run(model_dir: Path, data: Path, method: Method | None, seed: int) -> dict[str, Any]:
    """Compress the model and compare its similarities with the dense one's; returns the figures of the row.

    Calibration texts are of the training part, pairs of the test part: random ones, every text with another.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    train, test = (texts(data / "banking77" / f"{part}.csv") for part in ("train", "test"))
    order = np.random.default_rng(seed).permutation(len(train))[:CALIBRATION_TEXTS]
    chosen = [train[place] for place in sorted(order, key=lambda place: len(train[place]))]
    pairs = torch.from_numpy(np.random.default_rng(seed).integers(0, len(test), (PAIRS, 2)))
    warm_up()
    before = peak_bytes()
    model = AutoModel.from_pretrained(model_dir, dtype=torch.float32).eval()
    figures: dict[str, Any] = {"weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters())}
    if method is not None:
        batches = [
            dict(tokenizer(chosen[start : start + CALIBRATION_BATCH], padding=True, return_tensors="pt"))
            for start in range(0, len(chosen), CALIBRATION_BATCH)
        ]
        reset_peak()
        started = time.perf_counter()
        report = compress_(model, method, batches)
        figures |= {
            "compress_seconds": round(time.perf_counter() - started, 1),
            "peak_bytes": peak_bytes() - before,
            "layer_share": round(report.share, 4),
            "calibration_tokens": sum(int(batch["attention_mask"].sum()) for batch in batches),
        }
    # The dense model is run after the other is made: what it leaves to the allocator would count as compression's.
    dense = AutoModel.from_pretrained(model_dir, dtype=torch.float32).eval()
    found = [embeddings(either, tokenizer, test) for either in (dense, model)]
    similar = [(e[pairs[:, 0]] * e[pairs[:, 1]]).sum(-1) for e in found]
    return figures | {"metric": "spearman", "value": round(spearman(*similar), 4), "pairs": PAIRS}
