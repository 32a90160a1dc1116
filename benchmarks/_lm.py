"""Perplexity of a language model without training: WikiText-2, as GPTQ and SparseGPT count it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _memory import peak_bytes, reset_peak, warm_up
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from losparse import compress_
from losparse.methods import Method

WINDOW = 512
TEST_WINDOWS = 64
CALIBRATION_WINDOWS = 32  # 16,384 tokens


def windows(model: Path, text: Path, count: int) -> Tensor:
    """Return token ids of windows spread evenly over a text; (count, WINDOW)."""
    ids = AutoTokenizer.from_pretrained(model)(text.read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    whole = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    return whole[torch.linspace(0, len(whole) - 1, count).round().long()]


@torch.no_grad()
def perplexity(model: PreTrainedModel, ids: Tensor) -> float:
    """Return exp of the mean loss of every token but the first of each window."""
    total = 0.0
    for batch in ids.split(2):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        total += float(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / (len(ids) * (WINDOW - 1)))


def run(model_dir: Path, data: Path, method: Method | None, seed: int) -> dict[str, Any]:
    """Compress the model and measure it; returns the figures of the row."""
    test = windows(model_dir, data / "wikitext2-raw-test" / "wikitext2-raw-test.joined.txt", TEST_WINDOWS)
    text = data / "wikitext2-raw-train1mb" / "train-first1MB.txt"
    calibration = windows(model_dir, text, CALIBRATION_WINDOWS)
    warm_up()
    before = peak_bytes()
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    figures: dict[str, Any] = {"weights_bytes": weights}
    if method is not None:
        torch.manual_seed(seed)
        reset_peak()
        started = time.perf_counter()
        batches = [{"input_ids": ids, "labels": ids} for ids in calibration.split(2)]
        report = compress_(model, method, batches)
        figures |= {
            "compress_seconds": round(time.perf_counter() - started),
            "peak_bytes": peak_bytes() - before,
            "layer_share": round(report.share, 4),
            "model_share": round(report.model_parameters / report.model_dense_parameters, 4),
            "calibration_tokens": calibration.numel(),
        }
    return figures | {"metric": "perplexity", "value": round(perplexity(model, test), 2), "test_tokens": test.numel()}
