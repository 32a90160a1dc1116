"""Which products a model keeps for several layers at once, and how they are taken apart: the table of their layouts.

Taking apart is exact whatever the table says: rows are shared out and outputs put back in their places. What depends on
it is which layers a method finds: those of one attention, or of one feed-forward part, decide together what they keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from ..layers.blocks import block_of
from ..layers.factored import FactoredLinear
from ..layers.fused import ATTENTION, FEED_FORWARD, FusedSpec
from ..layers.linear import bias_of, is_linear, replace_module, weight_of
from ..layers.split import SplitLinear, split_linear
from .heads import numbers_of_heads

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_BY_HEADS = ("query_key_value", "in_proj")
"""Every head has its rows of query, key and value: GPT-NeoX, Bloom, Persimmon; DeBERTa."""
_OTHERWISE = ("minimax",)
"""Models whose products of these names are something else: MiniMax's linear attention, which has other heads."""
_CODEGEN_BLOCKS = 4
"""CodeGen's rows are those of four devices that it was trained on, of each the query, the value and the key."""


def fused_spec(name: str, shape: tuple[int, int], config: PretrainedConfig | None) -> FusedSpec | None:
    """Return how a linear layer's rows belong to several layers, by its name; None where they do not.

    Args:
        name: qualified name of the layer.
        shape: of its weight; (out, in).
        config: of the model, for its numbers of heads.
    """
    parent, _, own = name.rpartition(".")
    out_features, in_features = shape
    if own in FEED_FORWARD:
        half, odd = divmod(out_features, 2)
        return None if odd else FusedSpec((("gate", half), ("up", half)))
    if own not in ATTENTION or (own == "in_proj" and not parent.endswith("attention.self")):
        return None  # what else is called in_proj is of a state space or a convolution
    kind, (heads, key_heads) = getattr(config, "model_type", None), numbers_of_heads(name, config)
    if kind in _OTHERWISE:
        return None
    if own == "c_attn" and out_features == 2 * in_features and "crossattention" in parent:
        return FusedSpec((("k", in_features), ("v", in_features)))
    if kind == "codegen":
        return _shared_out(out_features, ("q", "v", "k"), (1, 1, 1), _CODEGEN_BLOCKS)
    by_heads = own in _BY_HEADS or (kind == "gpt_bigcode" and key_heads == heads)
    if by_heads:
        return _shared_out(out_features, ("q", "k", "v"), (1, 1, 1), heads) if heads > 1 else None
    return _shared_out(out_features, ("q", "k", "v"), (heads, key_heads, key_heads), 1)


def _shared_out(out_features: int, names: tuple[str, ...], shares: tuple[int, ...], blocks: int) -> FusedSpec | None:
    """Share rows out in proportion; None where that does not come out even."""
    unit, rest = divmod(out_features, sum(shares))
    sizes = [unit * share for share in shares]
    return (
        None
        if rest or not unit or any(size % blocks for size in sizes)
        else FusedSpec(tuple(zip(names, sizes, strict=True)), blocks)
    )


def split_fused_(model: nn.Module) -> dict[SplitLinear, nn.Module]:
    """Take the fused products in transformer blocks apart, in place; the model computes what it did.

    Returns:
        What stands there now, with the layer that it took the place of.
    """
    config: Any = getattr(model, "config", None)
    uses = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    found: dict[SplitLinear, nn.Module] = {}
    for name, module in list(model.named_modules()):
        if not is_linear(module) or block_of(model, name) is None or uses[id(module.weight)] > 1:
            continue  # a weight that others share stays theirs
        weight = weight_of(module).detach()
        fused = fused_spec(name, (int(weight.shape[0]), int(weight.shape[1])), config)
        if fused is not None:
            split = _apart(module, fused)
            replace_module(model, module, split)
            found[split] = module
    return found


def _apart(module: nn.Module, fused: FusedSpec) -> SplitLinear:
    """Return the layers of a product, trained as it was."""
    split = split_linear(weight_of(module).detach(), bias_of(module), fused).train(module.training)
    for part in split.parts:
        for kind, parameter in part.named_parameters(recurse=False):
            parameter.requires_grad_(module.get_parameter(kind).requires_grad)
    return split


def place_split(model: nn.Module, name: str, fused: FusedSpec) -> None:
    """Take one product of a model apart, in place.

    Args:
        model: of which the checkpoint is.
        name: of a linear layer in it.
        fused: which rows are whose; as many as the layer has.
    """
    module = model.get_submodule(name)
    replace_module(model, module, _apart(module, fused))


@contextmanager
def fused_apart(model: nn.Module) -> Iterator[None]:
    """Take fused products apart for what is done in here, and put those back of which nothing was factored.

    Where an error leaves it, all are put back.
    """
    found = split_fused_(model)
    try:
        yield
    except BaseException:
        for split, module in found.items():
            replace_module(model, split, module)
        raise
    for split, module in found.items():
        if not any(isinstance(part, FactoredLinear) for part in split.parts):
            replace_module(model, split, module)
            continue
        for part in split.parts:
            if not isinstance(part, FactoredLinear):
                _own_memory(part)


def _own_memory(part: nn.Module) -> None:
    """Give a part that stayed dense a weight of its own, so that the whole's can go."""
    for kind, parameter in list(part.named_parameters(recurse=False)):
        own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
        part.register_parameter(kind, own)


def split_products(model: nn.Module) -> dict[str, FusedSpec]:
    """Return the products of a model that were taken apart, by qualified name."""
    return {name: module.fused for name, module in model.named_modules() if isinstance(module, SplitLinear)}
