"""The linear weights of a model that no method looked at."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..layers.embedding import CompactTable
from ..layers.factored import FactoredLinear
from .coverage import is_table

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def other_linear(model: nn.Module) -> dict[str, int]:
    """Count the linear weights of a model that are not factored: what `coverage` says is left.

    Returns:
        Parameters by the qualified name of the layer, or of a parameter that a module multiplies by itself (experts
        that are fused to three axes); one that is used twice, and a head that is tied to an embedding, counts once or
        not at all.
    """
    seen = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, FactoredLinear | CompactTable):
            continue
        if isinstance(module, _CONVOLUTIONS) and set(module.kernel_size) != {1}:
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            layer = isinstance(module, (nn.Linear, Conv1D, *_CONVOLUTIONS)) and kind == "weight"
            raw = parameter.dim() > 1 and parameter.shape[0] > 1 and not is_table(f"{name}.{kind}")
            if (layer or raw) and id(parameter) not in seen:
                seen.add(id(parameter))
                found[name if kind == "weight" else f"{name}.{kind}"] = parameter.numel()
    return found
