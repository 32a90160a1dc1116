"""Running a model for calibration: without gradients, without its head, and with hooks that come off again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .modes import evaluating

Batch = Mapping[str, Any]
Advance = Callable[[int], None]
"""Told how many batches are done since the last call."""


_SETTINGS = ("use_cache", "problem_type")
"""Of a model's configuration, which are other ones while it runs: transformers notes the problem that labels are of."""


def silent(done: int) -> None:
    """Report to nobody."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Run a model without gradients, dropout and key-value cache, and leave it as it was."""
    config = getattr(model, "config", None)
    before = {name: getattr(config, name) for name in _SETTINGS if hasattr(config, name)}
    try:
        with evaluating(model), torch.no_grad():
            if config is not None and before.get("use_cache") is not None:
                config.use_cache = False
            yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def backbone(model: nn.Module, batch: Batch) -> nn.Module:
    """Return the part of a transformers model below its head, whose logits calibration does not need.

    It is the whole model where the head makes inputs that the part below it wants: T5's classifier those of the
    decoder, Perceiver's embedded bytes.
    """
    base = getattr(model, "base_model", model)
    if not isinstance(base, nn.Module):
        return model
    inputs, taken = inputs_of(batch), inspect.signature(base.forward).parameters.values()
    ordinary = [parameter for parameter in taken if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    missing = any(parameter.default is parameter.empty and parameter.name not in inputs for parameter in ordinary)
    config = getattr(model, "config", None)
    pairs = getattr(config, "is_encoder_decoder", False) and not any(key.startswith("decoder_input") for key in inputs)
    return model if missing or pairs else base


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
