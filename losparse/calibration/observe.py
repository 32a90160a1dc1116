"""Moments of what layers read: by hooks, masked tokens left out.

    observe(layers, gram=True)     the hooks as one context manager
    whole_pass(...)                one pass over the whole model; later layers see what the dense model gives them

A Gram matrix of 8 in^2 bytes is held for every tensor that the observed layers read; layers that read the same tensor
share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import LosparseError
from .statistics import InputMoments, LayerStatistics

Batch = Mapping[str, Any]
Advance = Callable[[int], None]
"""Told how many batches are done since the last call."""


def silent(done: int) -> None:
    """Report to nobody."""


class Mask:
    """Which tokens of the present batch are real; bool (batch, length), or None where all are."""

    def __init__(self) -> None:
        self.real: Tensor | None = None

    def set(self, batch: Batch) -> None:
        """Read the mask of a batch."""
        mask = batch.get("attention_mask")
        self.real = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def tokens(self, x: Tensor) -> Tensor | None:
        """Return the real tokens of a layer's input; (tokens, in), or None for a call that is not about tokens.

        DeBERTa's query and key are also applied to its table of relative positions: such calls have another leading
        shape than the batch, and are left out.
        """
        if self.real is None:
            return x.reshape(-1, x.shape[-1])
        if x.shape[:-1] == self.real.shape:
            return x[self.real]
        flat = self.real.flatten()
        return x[flat] if x.dim() == 2 and len(x) == len(flat) else None


def real_tokens(batch: Batch) -> int:
    """Return how many tokens of a batch are no padding; 0 where it holds none."""
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    return int(mask.sum()) if mask is not None else ids.numel() if ids is not None else 0


def spread(batches: Sequence[Batch], tokens: int) -> Sequence[int]:
    """Return the numbers of batches that hold about `tokens` real tokens: evenly spaced, since they come by size.

    Args:
        batches: of calibration data.
        tokens: wanted; all batches are taken where they hold fewer, or little more.
    """
    every = max(1, round(sum(map(real_tokens, batches)) / tokens))
    return range((len(batches) - 1) % every // 2, len(batches), every)


def mean_states(states: Tensor, real: Tensor | None) -> Tensor:
    """Return the mean hidden state of every text, which is what most make of a model without a head.

    Args:
        states: (texts, tokens, hidden), or of the texts already: (texts, hidden).
        real: which tokens count; (texts, tokens), or None where all do.

    Returns:
        In fp32, since half precision cannot count tokens beyond 256; (texts, hidden).
    """
    states = states.float()
    if states.dim() < 3:
        return states
    if real is None or states.shape[:2] != real.shape:
        return states.flatten(1, -2).mean(1)
    weights = real.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


@contextmanager
def observe(layers: Mapping[str, nn.Module], mask: Mask, *, gram: bool) -> Iterator[dict[str, InputMoments]]:
    """Add up the inputs of some layers while the model runs.

    Layers that read the very same tensor share one object, so that q, k and v cost one Gram matrix.

    Args:
        layers: by qualified name; anything that is called with (..., in).
        mask: which tokens count; set it before every batch.
        gram: also collect the Gram matrix.

    Yields:
        Moments by layer; a layer that is not called has none.
    """
    moments: dict[str, InputMoments] = {}
    last: list[tuple[Tensor, InputMoments]] = []  # the tensor read last, held so that its identity means something

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def read(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            x: Tensor = arguments[0]
            if last and last[0][0] is x:
                shared = last[0][1]
                if moments.setdefault(name, shared) is shared:
                    return
            tokens = mask.tokens(x)
            if tokens is None:
                return
            own = moments.get(name)
            if own is None:
                own = moments[name] = InputMoments.empty(x.shape[-1], gram=gram)
            own.add(tokens)
            last[:] = [(x, own)]

        return read

    with hooked(layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()):
        yield moments


def whole_pass(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    *,
    gram: bool,
    advance: Advance = silent,
) -> dict[str, LayerStatistics]:
    """Collect the moments of the inputs of all layers in one pass over the model.

    Raises:
        LosparseError: no batch, no token, or a value that is not finite.
    """
    mask, seen = Mask(), False
    with inference(model), observe(layers, mask, gram=gram) as moments:
        for batch in batches:
            seen = True
            mask.set(batch)
            backbone(model)(**inputs_of(batch))
            advance(1)
    if not seen:
        raise no_batch()
    return checked(layers, moments)


def checked(layers: Iterable[str], moments: Mapping[str, InputMoments]) -> dict[str, LayerStatistics]:
    """Return the moments of some layers as their statistics.

    Raises:
        LosparseError: a layer was not called, or its moments say nothing.
    """
    found: dict[str, LayerStatistics] = {}
    for name in layers:
        if name not in moments:
            raise LosparseError(f"layer {name!r} was never called on the calibration data; leave it out with ignore=")
        moments[name].check(name)
        found[name] = LayerStatistics(inputs=moments[name])
    return found


def no_batch() -> LosparseError:
    """Return the error of a calibration set that is empty."""
    return LosparseError("the calibration data holds no batch; give at least one text")


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
