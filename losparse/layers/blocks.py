"""The transformer blocks of a model: the numbered entries of its `nn.ModuleList`s, and which layer is in which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn


def block_of(model: nn.Module, name: str) -> str | None:
    """Return the qualified name of the transformer block a layer is in: the first numbered entry of a ModuleList."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        parent = ".".join(parts[:place])
        if part.isdigit() and isinstance(model.get_submodule(parent), nn.ModuleList):
            return f"{parent}.{part}"
    return None


def stack_of(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """Return the names of all blocks of the one stack that some layers are in; none if there are several stacks."""
    stacks = {block.rpartition(".")[0] for name in layers if (block := block_of(model, name)) is not None}
    if len(stacks) != 1:
        return []
    (stack,) = stacks
    module = model.get_submodule(stack)
    assert isinstance(module, nn.ModuleList)
    return [f"{stack}.{place}" for place in range(len(module))]


def block_numbers(model: nn.Module, layers: Iterable[str]) -> dict[str, int]:
    """Return the number of the block each layer is in, counted through all stacks; layers outside blocks have none."""
    found = {name: block for name in layers if (block := block_of(model, name)) is not None}
    order = {block: number for number, block in enumerate(dict.fromkeys(found.values()))}
    return {name: order[block] for name, block in found.items()}


def layers_by_block(
    model: nn.Module, layers: Mapping[str, nn.Module], blocks: Sequence[str]
) -> list[dict[str, nn.Module]]:
    """Sort layers by the block they are in; those in no block are left out."""
    by_block: dict[str, dict[str, nn.Module]] = {name: {} for name in blocks}
    for name, layer in layers.items():
        block = block_of(model, name)
        if block in by_block:
            by_block[block][name] = layer
    return list(by_block.values())
