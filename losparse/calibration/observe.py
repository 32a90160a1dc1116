"""Moments of what layers read: by hooks, masked tokens left out.

    observe(layers, gram=True)     the hooks as one context manager
    whole_pass(...)                one pass over the whole model; later layers see what the dense model gives them

A Gram matrix of 8 in^2 bytes is held for every tensor that the observed layers read; layers that read the same tensor
share one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from losparse_runtime.contract.tensors import MASK, TOKENS

from ..errors import LosparseError
from .layout import Layout, layout_of, read_tokens, real_of
from .running import Advance, Batch, hooked, inference, inputs_of, silent
from .statistics import InputMoments, LayerStatistics


class Mask:
    """Which tokens of the present batch are real.

    Attributes:
        texts: of the batch's texts, and of its decoder's; bool (batch, length) each, or None where it holds none.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout
        self.texts: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def real(self) -> Tensor | None:
        """Which tokens of the texts are real; bool (batch, length), or None where the batch has no texts."""
        return self.texts[0]

    def set(self, batch: Batch) -> None:
        """Read the mask of a batch."""
        self.texts = real_of(batch)

    def tokens(self, x: Tensor, layer: str = "") -> Tensor | None:
        """Return the real tokens of a layer's input; (tokens, in), or None for a call that is not about tokens."""
        return read_tokens(x, self.texts, () if self.layout is None else self.layout.places.get(layer, ()))


def real_tokens(batch: Batch) -> int:
    """Return how many tokens of a batch are no padding; 0 where it holds none."""
    mask, ids = batch.get(MASK), batch.get(TOKENS)
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
            tokens = mask.tokens(x, name)
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
    layout: Layout | None = None,
    advance: Advance = silent,
) -> dict[str, LayerStatistics]:
    """Collect the moments of the inputs of all layers in one pass over the model.

    Args:
        model: to run.
        layers: by qualified name.
        batches: of calibration data.
        gram: also collect the Gram matrix.
        layout: how layers hold tokens; None finds out.
        advance: told after every batch.

    Raises:
        LosparseError: no batch, no token, a layer that is not called, or a value that is not finite.
    """
    batches = list(batches)
    if not batches:
        raise no_batch()
    layout = layout or layout_of(model, layers, batches[0])
    mask = Mask(layout)
    with inference(model), observe(layers, mask, gram=gram) as moments:
        for batch in batches:
            mask.set(batch)
            layout.runs(**inputs_of(batch))
            advance(1)
    return checked(layers, moments)


def checked(layers: Iterable[str], moments: Mapping[str, InputMoments]) -> dict[str, LayerStatistics]:
    """Return the moments of some layers as their statistics.

    Raises:
        LosparseError: a layer was not called, or its moments say nothing.
    """
    names = list(layers)
    idle = [name for name in names if name not in moments]
    if idle:
        kinds = list(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in idle))
        more = f" ({len(idle)} layers like that)" if len(idle) > 1 else ""
        raise LosparseError(
            f"layer {idle[0]!r} was never called on the calibration data{more}; leave out what texts alone do not "
            f"reach, with ignore={kinds!r}"
        )
    for name in names:
        moments[name].check(name)
    return {name: LayerStatistics(inputs=moments[name]) for name in names}


def no_batch() -> LosparseError:
    """Return the error of a calibration set that is empty."""
    return LosparseError("the calibration data holds no batch; give at least one text")
