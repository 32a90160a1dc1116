"""Perplexity of a language model without training: WikiText-2, as GPTQ and SparseGPT count it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from _memory import peak_bytes, reset_peak, warm_up
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from losparse import compress_
from losparse.evaluation.checkpoint import CheckpointModel
from losparse.methods import Method
from losparse_runtime.evaluation.rows import Row, score_rows

WINDOW = 512
TEST_WINDOWS = 64
CALIBRATION_WINDOWS = 32  # 16,384 tokens


def windows(model: Path, text: Path, count: int) -> Tensor:
    """Return token ids of windows spread evenly over a text; (count, WINDOW)."""
    ids = AutoTokenizer.from_pretrained(model)(text.read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    whole = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    return whole[torch.linspace(0, len(whole) - 1, count).round().long()]


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> float:
    """Return exp of the mean loss of every token but the first of each window, as `losparse eval` defines it."""
    rows = [Row(window, WINDOW - 1) for window in ids.tolist()]
    scores = score_rows(CheckpointModel(model, tokenizer, "the model"), rows, run_tokens=2 * WINDOW)
    return math.exp(-sum(each.log for each in scores) / sum(each.counted for each in scores))


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
    value = round(perplexity(model, AutoTokenizer.from_pretrained(model_dir), test), 2)
    return figures | {"metric": "perplexity", "value": value, "test_tokens": test.numel()}
