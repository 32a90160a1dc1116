"""How a layer's input holds the tokens of a batch: read off once, on a few rows that cannot be mistaken for anything.

    rows        (texts, length, ..., features)     nearly every model
    columns     (length, texts, features)          XLNet; Longformer's attention
    flat        (texts * length, features)         experts, MPT-like feed-forward parts
    longer      rows or columns, padded by the model to a multiple of its window (Longformer, BigBird)
    shorter     rows, after the model has shortened its texts (Funnel, CANINE)
    every       what has no axis of texts: DeBERTa's table of relative positions; and whatever is no text

Sizes alone do not tell them apart: a batch may be square, a table as long as a text. So the model is run on copies of
one row, whose number is neither 1 nor the length of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losparse_runtime.contract.tensors import DECODER_MASK, DECODER_TOKENS, MASK, TOKENS

from .running import Batch, backbone, hooked, inference, inputs_of

Kind = Literal["rows", "columns", "flat", "longer", "longer-columns", "shorter", "every"]

IDS = (TOKENS, DECODER_TOKENS)
"""What a batch calls its texts, and what it calls those of a decoder."""

_MASKS = (MASK, DECODER_MASK)
_EXACT: tuple[Kind, ...] = ("rows", "columns", "flat")
_LOOSE: tuple[Kind, ...] = ("longer", "longer-columns", "shorter")


@dataclass(frozen=True)
class Place:
    """Where a layer's input holds tokens: those of the texts (0) or of the decoder's (1), and how."""

    texts: int
    kind: Kind


@dataclass(frozen=True)
class Layout:
    """How a model is run for calibration, and how its layers' inputs are read.

    Attributes:
        runs: the part of the model that calls the layers.
        places: of every layer that is called, in the order in which they are tried.
    """

    runs: nn.Module
    places: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)


def read_tokens(x: Tensor, texts: tuple[Tensor | None, Tensor | None], places: Sequence[Place] = ()) -> Tensor | None:
    """Return the real tokens of a layer's input; (tokens, in), or None for a call that is not about tokens.

    DeBERTa's query and key are also applied to a table of relative positions: such calls are left out, where a layer
    is not called with a table alone.

    Args:
        x: what the layer reads; (..., in).
        texts: which tokens are real, of the texts and of the decoder's; bool (texts, length) each, or None.
        places: where the layer may hold tokens; without any, wherever sizes say so.
    """
    if texts[0] is None:
        return x.reshape(-1, x.shape[-1])
    for place in places or [Place(0, kind) for kind in _EXACT]:
        if place.kind == "every":
            return x.reshape(-1, x.shape[-1])
        real = texts[place.texts]
        found = None if real is None else _pick(place.kind, x, real)
        if found is not None:
            return found
    return None


def real_of(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Return which tokens of a batch are real, of its texts and of its decoder's; bool (texts, length) each, or None.

    A batch that holds no ids, but a mask of two axes, is read by that.
    """
    found: list[Tensor | None] = []
    for ids, key in zip(IDS, _MASKS, strict=True):
        mask, tokens = batch.get(key), batch.get(ids)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            found.append(mask.bool())
        elif isinstance(tokens, Tensor) and tokens.dim() == 2:
            found.append(torch.ones_like(tokens, dtype=torch.bool))
        else:
            found.append(None)
    return found[0], found[1]


def layout_of(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch) -> Layout:
    """Run a model on copies of one row, and see how every layer is called.

    The part below the head is run, whose outputs are all that calibration needs, unless only the whole model calls
    some layer (Longformer's classifier attends globally to its first token, which its backbone alone does not).
    """
    inputs = inputs_of(batch)
    part = backbone(model, batch)
    if real_of(inputs)[0] is None:
        return Layout(part)
    probe = _copies(inputs)
    places = _places(model, part, layers, probe)
    if part is not model and len(places) < len(layers):
        whole = _places(model, model, layers, probe)
        if len(whole) > len(places):
            return Layout(model, whole)
    return Layout(part, places)


def _copies(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch of copies of its first row; texts of a decoder get another length than those of the encoder."""
    ids, decoder = (inputs.get(name) for name in IDS)
    lengths = {value.shape[1] for value in (ids, decoder) if isinstance(value, Tensor)}
    count = next(number for number in range(3, 9) if number not in lengths)
    first = inputs.get(IDS[0], inputs.get(_MASKS[0]))
    rows = len(first) if first is not None else 0
    copies = {
        key: value[:1].expand(count, *value.shape[1:]) if isinstance(value, Tensor) and len(value) == rows else value
        for key, value in inputs.items()
    }
    if isinstance(decoder, Tensor) and len(lengths) == 1 and decoder.shape[1] > 1:
        for key in (IDS[1], _MASKS[1]):
            if key in copies:
                copies[key] = copies[key][:, :-1]
    return copies


def _places(
    model: nn.Module, part: nn.Module, layers: Mapping[str, nn.Module], probe: Batch
) -> dict[str, tuple[Place, ...]]:
    texts = real_of(probe)
    mixed = any(isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 2 for value in probe.values())
    calls: dict[str, list[Place]] = {}

    def note(name: str) -> Any:
        def read(module: nn.Module, arguments: Any) -> None:
            calls.setdefault(name, []).append(_place_of(arguments[0], texts, mixed=mixed))

        return read

    with inference(model), hooked(layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()):
        part(**probe)
    found: dict[str, tuple[Place, ...]] = {}
    for name, seen in calls.items():
        own = list(dict.fromkeys(place for place in seen if place.kind != "every"))
        # A longer batch may be padded by a model that left the probe as it is (BigBird), but a table is no text.
        longer = Place(0, "longer")
        if own == [Place(0, "rows")] and len(set(seen)) == 1 and not mixed:
            own.append(longer)
        found[name] = tuple(own) or (Place(0, "every"),)
    return found


def _place_of(x: Tensor, texts: tuple[Tensor | None, ...], *, mixed: bool) -> Place:
    """Tell how an input of the probe holds tokens; of a batch that is not of texts alone only what is certain."""
    for kind in _EXACT if mixed else (*_EXACT, *_LOOSE):
        for number, real in enumerate(texts):
            if real is not None and _pick(kind, x, real) is not None:
                return Place(number, kind)
    return Place(0, "every")


def _pick(kind: Kind, x: Tensor, real: Tensor) -> Tensor | None:
    """Return the real tokens of an input that is of a kind, None if its sizes are others; (tokens, in)."""
    rows, length = real.shape
    if kind == "flat":
        return x[real.flatten()] if x.dim() == 2 and len(x) == real.numel() else None
    if x.dim() < 3:
        return None
    if kind in ("columns", "longer-columns"):
        x = x.transpose(0, 1)
    if len(x) != rows:
        return None
    if x.shape[1] == length and kind in ("rows", "columns", "longer", "longer-columns"):
        pass
    elif x.shape[1] > length and kind in ("longer", "longer-columns"):
        real = F.pad(real, (0, x.shape[1] - length))  # the model pads on the right
    elif x.shape[1] < length and kind == "shorter":
        # A place counts if any token that it stands for does.
        real = F.adaptive_max_pool1d(real.float(), x.shape[1]).bool()
    else:
        return None
    return x[real].reshape(-1, x.shape[-1])
