"""What a language model keeps of earlier tokens: keys and values of every layer, as transformers' caches hold them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from losparse.errors import LosparseError
from losparse_runtime.contract.tensors import (
    BATCH,
    MASK,
    PAST,
    POSITIONS,
    TOKENS,
    TOTAL,
    State,
    TensorSpec,
    past_name,
    present_of,
)


@dataclass(frozen=True)
class LayerCache:
    """One layer's share.

    Attributes:
        heads: of keys and values.
        key: width of a key.
        value: width of a value.
    """

    heads: int
    key: int
    value: int

    def specs(self, layer: int) -> tuple[tuple[TensorSpec, TensorSpec, State], ...]:
        """Return past, present and what joins them, of keys and of values; (batch, heads, tokens, width)."""
        found = []
        for kind, width in (("key", self.key), ("value", self.value)):
            past = TensorSpec(past_name(layer, kind), "float32", (BATCH, self.heads, PAST, width))
            present = TensorSpec(str(present_of(past.name)), "float32", (BATCH, self.heads, TOTAL, width))
            found.append((past, present, State(past.name, present.name)))
        return tuple(found)


def takes_positions(model: Any) -> bool:
    """Tell whether positions of tokens may be given to a model."""
    return POSITIONS in inspect.signature(model.forward).parameters


@torch.no_grad()
def cache_layers(model: Any) -> tuple[LayerCache, ...]:
    """Find what a model keeps, by running it on one token.

    Args:
        model: a transformers model with a language modelling head, in evaluation mode.

    Raises:
        LosparseError: it keeps nothing, or something else than keys and values of a layer.
    """
    name, device = type(model).__name__, next(model.parameters()).device
    token = torch.zeros((1, 1), dtype=torch.int64, device=device)
    try:
        kept = model(**{TOKENS: token, MASK: torch.ones_like(token)}, use_cache=True, return_dict=True)
    except (TypeError, ValueError) as error:
        raise LosparseError(f"{name}: does not run with a cache ({error}); its export needs one") from error
    cache = getattr(kept, "past_key_values", None)
    layers = getattr(cache, "layers", None)
    if not isinstance(cache, DynamicCache) or not layers:
        raise LosparseError(
            f"{name}: keeps {type(cache).__name__} of earlier tokens, an export needs keys and values of every layer "
            "(transformers' DynamicCache); state-space and linear-attention models are not exported"
        )
    return tuple(_layer(name, number, layer) for number, layer in enumerate(layers))


def filled_cache(pairs: Sequence[tuple[Tensor, Tensor]]) -> DynamicCache:
    """Return a cache that holds keys and values of earlier tokens, (batch, heads, past, width) each, layer by layer.

    Every layer keeps all of them, also where the model looks at the last ones alone: its mask hides the others.
    """
    return DynamicCache(list(pairs))


def _layer(name: str, number: int, layer: Any) -> LayerCache:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    plain = isinstance(layer, DynamicLayer)
    if not plain or not isinstance(keys, Tensor) or not isinstance(values, Tensor) or keys.dim() != 4:
        raise LosparseError(
            f"{name}: layer {number} keeps {type(layer).__name__} of earlier tokens, an export needs keys and values; "
            "state-space and linear-attention models are not exported"
        )
    return LayerCache(keys.shape[1], keys.shape[3], values.shape[3])
