"""Running a model for calibration: without gradients, without its head, and with hooks that come off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Batch = Mapping[str, Any]
Advance = Callable[[int], None]
"""Told how many batches are done since the last call."""


def silent(done: int) -> None:
    """Report to nobody."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Run a model without gradients, dropout and key-value cache, and leave it as it was."""
    training, config = model.training, getattr(model, "config", None)
    cache = getattr(config, "use_cache", None)
    model.eval()
    if cache is not None and config is not None:
        config.use_cache = False
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        if cache is not None and config is not None:
            config.use_cache = cache


def backbone(model: nn.Module) -> nn.Module:
    """Return the part of a transformers model below its head, whose logits calibration does not need."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def inputs_of(batch: Batch) -> dict[str, Any]:
    """Return what the backbone takes of a batch: everything but labels."""
    return {key: value for key, value in batch.items() if "label" not in key and not key.endswith("_positions")}


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Take hooks off again, however the block ends."""
    registered = list(handles)
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()
