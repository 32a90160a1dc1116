"""What the support matrix does with one tiny model, and what may come out of it.

A cell is "ok", "refused: ..." (a `LosparseError` or `LosparseRuntimeError`, in words), "wrong: ..." or "crash: ...".
The first two are right; the others are faults of losparse.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from losparse import ROM, SVD, LoSparse, OneShotLoSparse, compact_, compress_
from losparse.errors import LosparseError
from losparse.layers.training import training_layers
from losparse.methods.losparse.algorithm import update_masks
from losparse.models.report import CompressionReport
from losparse_export import PRECISION_TABLE, export_model
from losparse_runtime import Comparison, LosparseRuntimeError, Session
from losparse_runtime.checking.bounds import allowed_difference

from ..export.traces import Traces
from .models import Architecture, build, inputs, outputs

Cells = dict[str, str]
METHODS = ("svd", "rom", "one-shot", "losparse")
EXPORTS = ("fp32", "int8")
COLUMNS = (*METHODS, *EXPORTS)

_KEEP = 0.5
_SHAPES = ((1, 5), (2, 9), (3, 40), (2, 100), (1, 200))
"""Batch and length; beyond every window (8 to 32), block (4) and original number of positions (32) of the models."""


def run(architecture: Architecture) -> dict[str, Any]:
    """Take one architecture the whole way; returns its row of the matrix."""
    began = time.monotonic()
    cells: Cells = {}
    with tempfile.TemporaryDirectory(prefix="losparse-support-") as name:
        folder = Path(name)
        for method in METHODS:
            cells[method] = outcome(lambda method=method: compress(architecture, method, folder / method))
        _export(architecture, folder, cells)
        cells = {column: cell.replace(f"{folder}/losparse", "FOLDER") for column, cell in cells.items()}
    model = build(architecture)
    return {
        "name": architecture.name,
        "model_type": architecture.model_type,
        "class": type(model).__name__,
        "task": architecture.task,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cells": cells,
        "seconds": round(time.monotonic() - began),
    }


class _Wrong(Exception):
    """Numbers that are not what they must be."""


def outcome(step: Callable[[], None]) -> str:
    """Carry out a step and say what came of it."""
    try:
        step()
    except _Wrong as error:
        return f"wrong: {error}"
    except (LosparseError, LosparseRuntimeError) as error:
        return f"refused: {error}"
    except Exception as error:  # a table of what fails must outlive every failure
        return f"crash: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return "ok"


def compress(architecture: Architecture, method: str, folder: Path) -> None:
    """Compress a fresh model by one method, save it, and see that it opens again as the same model."""
    model = build(architecture)
    report = _by(method, model, architecture)
    if not report.layers or report.share > 1.0:
        raise _Wrong(f"{len(report.layers)} layers at a share of {report.share:.2f}")
    feeds = _feeds(architecture, model, 2, 9, (9, 5))
    before = outputs(model, feeds)
    if not all(torch.isfinite(values).all() for values in before.values()):
        raise _Wrong("the compressed model gives NaN or infinity")
    model.save_pretrained(folder)
    after = outputs(reload(architecture, folder), feeds)
    for name, values in before.items():
        if not torch.equal(values, after[name]):
            raise _Wrong(f"reloaded {name} differs by {float((values - after[name]).abs().max()):.2e}")


def _by(method: str, model: Any, architecture: Architecture) -> CompressionReport:
    batches = [_feeds(architecture, model, 3, 9, (9, 6, 3), seed) for seed in range(3)]
    if method == "svd":
        return compress_(model, SVD(keep=_KEEP))
    if method == "rom":
        return compress_(model, ROM(keep=_KEEP), batches)
    if method == "one-shot":
        return compress_(model, OneShotLoSparse(keep=_KEEP), batches)
    return _train(model, batches[0])


def _train(model: Any, batch: Mapping[str, Tensor]) -> CompressionReport:
    """Compress in training form: one backward pass, masks moved by drawn scores, then the small form."""
    method = LoSparse(keep=_KEEP)
    compress_(model, method)
    sum(values.float().square().mean() for values in outputs(model.train(), batch, gradient=True).values()).backward()
    layers = training_layers(model)
    if all(parameter.grad is None for layer in layers.values() for parameter in layer.parameters()):
        raise _Wrong("no layer in training form has a gradient")
    model.zero_grad()
    for seed, layer in enumerate(layers.values()):
        layer.score_avg.copy_(torch.rand(layer.score_avg.shape, generator=torch.Generator().manual_seed(seed)))
    update_masks(layers, method.families(layers, model.config), method.sparse_budget(list(layers.values())))
    return compact_(model.eval(), method)


def _feeds(
    architecture: Architecture, model: Any, batch: int, length: int, lengths: tuple[int, ...], seed: int = 0
) -> dict[str, Tensor]:
    feeds = inputs(model, batch, length, lengths=lengths, seed=seed)
    if architecture.auto.endswith("Seq2SeqLM"):
        feeds["decoder_input_ids"] = feeds["input_ids"][:, :4]
    return feeds


def reload(architecture: Architecture, folder: Path) -> Any:
    """Open a saved model the way a user does, in evaluation mode."""
    kind = getattr(transformers, architecture.model or architecture.auto)
    return kind.from_pretrained(folder).eval()


def _export(architecture: Architecture, folder: Path, cells: Cells) -> None:
    """Export the trained form in every precision; one trace serves them all."""
    source = folder / "losparse"
    if not (source / "config.json").is_file():
        model = build(architecture)  # compression was refused: the dense model is exported
        model.save_pretrained(source)
    tracer = Traces()
    for precision in EXPORTS:
        out = folder / precision

        def step(precision: str = precision, out: Path = out) -> None:
            export_model(source, out, task=architecture.task, precision=precision, tracer=tracer)
            _compare(architecture, source, out, precision)

        cells[precision] = outcome(step)


def _compare(architecture: Architecture, source: Path, out: Path, precision: str) -> None:
    """Compare an exported folder with a fresh PyTorch model, one that no trace has seen."""
    session = Session(out, threads=1)
    model = reload(architecture, source)
    comparison, scale = Comparison(), 0.0
    for seed, (batch, length) in enumerate(_SHAPES):
        length = min(length, session.max_length)
        lengths = tuple(max(1, length - row * length // 3) for row in range(batch))
        feeds = inputs(model, batch, length, lengths=lengths, seed=10 + seed)
        arrays = {name: values.numpy() for name, values in feeds.items()}
        expected = {name: values.numpy() for name, values in outputs(model, feeds).items()}
        actual = {name: values for name, values in session.run(session.feed(arrays)).items() if name in expected}
        expected = {name: expected[name] for name in actual}
        mask = arrays["attention_mask"]
        comparison.add(actual, expected, mask=mask, masked=session.metadata.token_outputs)
        for name, values in expected.items():
            seen = values[mask.astype(bool)] if name in session.metadata.token_outputs else values
            scale = max(scale, float(np.abs(seen).max()))
    judge, parity = PRECISION_TABLE[precision], comparison.parity()
    failure = judge.failure(parity, allowed_difference(judge.difference, scale), classifies=False)
    if failure is not None:
        raise _Wrong(f"against a fresh model: {failure[0]}, allowed {failure[1]}")


def write(row: Mapping[str, Any], file: Path) -> None:
    """Write one row as JSON."""
    file.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
