"""The embedding tables of a model, which fine-tuning may leave as they are."""

from __future__ import annotations

from torch import nn

from ..layers.embedding import CompactTable


def freeze_embeddings(model: nn.Module) -> int:
    """Stop the gradients of the embedding tables outside the blocks, and of an encoder's norms beside them.

    A head that is tied to the table stays as it is with it.

    Returns:
        The number of parameters frozen.
    """
    tables = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        # T5 has a table of distances within a block, which is no embedding; blocks are numbered
        if isinstance(module, nn.Embedding | CompactTable) and not any(part.isdigit() for part in name.split("."))
        for part, _ in module.named_parameters(recurse=False)
    }
    frozen = 0
    for name, parameter in model.named_parameters():
        if name in tables or "embeddings" in name.split("."):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen
