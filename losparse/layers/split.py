r"""One product that models expect, made of layers of its parts.

      x -+- q -- (.., out_q) -+
         +- k -- (.., out_k) -+- put in the order of the model's own rows -- (.., sum of out)
         +- v -- (.., out_v) -+

The parts are ordinary linear layers, which a method replaces like any others. In an exported graph the model's code
takes the outputs apart again, and a pass (`passes.parts`) takes out both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .fused import FusedSpec
from .lazy_weight import LazyWeight


class SplitLinear(nn.Module):
    """Linear layers in the place of one whose rows they share out.

    Attributes:
        fused: which rows are whose.
    """

    def __init__(self, fused: FusedSpec, parts: Mapping[str, nn.Module]) -> None:
        """Take the layers by name, as `fused` names them."""
        super().__init__()
        self.fused = fused
        for name, _ in fused.parts:
            self.add_module(name, parts[name])

    @property
    def parts(self) -> list[nn.Module]:
        """The layers, in the order of their rows."""
        return [self.get_submodule(name) for name, _ in self.fused.parts]

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers.

        Args:
            x: any leading shape; (..., in).

        Returns:
            (..., out), in the order of the model's own product.
        """
        return self._joined([part(x) for part in self.parts], -1)

    def _joined(self, tensors: list[Tensor], dim: int) -> Tensor:
        """Put what belongs to the outputs of the parts in the order of the whole's, along the axis `dim`."""
        blocks, dim = self.fused.blocks, dim % tensors[0].dim()
        if blocks == 1:
            return torch.cat(tensors, dim)
        apart = [torch.unflatten(tensor, dim, (blocks, tensor.shape[dim] // blocks)) for tensor in tensors]
        return torch.cat(apart, dim + 1).flatten(dim, dim + 1)

    @property
    def in_features(self) -> int:
        """Inputs."""
        return int(self.parts[0].in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        """Outputs."""
        return self.fused.out_features

    @property
    def weight(self) -> Tensor:
        """The whole weight as models read it of a linear layer, computed when its values are used; (out, in)."""
        return LazyWeight(self._weight, (self.out_features, self.in_features), self._reference())

    @property
    def bias(self) -> Tensor | None:
        """The whole bias, computed when its values are used; (out,), or None where no part has one."""
        if all(part.bias is None for part in self.parts):
            return None
        return LazyWeight(self._bias, (self.out_features,), self._reference())

    def _weight(self) -> Tensor:
        return self._joined([part.weight for part in self.parts], 0)  # type: ignore[misc]

    def _bias(self) -> Tensor:
        like = self._reference()
        biases = [
            like.new_zeros(size) if part.bias is None else part.bias
            for part, (_, size) in zip(self.parts, self.fused.parts, strict=True)
        ]
        return self._joined(biases, 0)  # type: ignore[arg-type]

    def _reference(self) -> Tensor:
        """Return a tensor of the layers' dtype and device."""
        return next(self.parameters(), torch.zeros(()))

    def extra_repr(self) -> str:
        """Return how rows are shared out, as `print(model)` shows it."""
        return f"blocks={self.fused.blocks}"


@torch.no_grad()
def split_linear(weight: Tensor, bias: Tensor | None, fused: FusedSpec) -> SplitLinear:
    """Take a product apart, without any rounding.

    Args:
        weight: of the whole; (out, in). Parts that stand one after another share its memory.
        bias: (out,) or None.
        fused: which rows are whose.
    """
    parts = {}
    sizes = [size // fused.blocks for _, size in fused.parts]
    for place, (name, size) in enumerate(fused.parts):
        start = sum(sizes[:place])

        def mine(rows: Tensor, start: int = start, width: int = sizes[place], size: int = size) -> nn.Parameter:
            blocks = torch.unflatten(rows, 0, (fused.blocks, len(rows) // fused.blocks))[:, start : start + width]
            return nn.Parameter(blocks.reshape(size, *rows.shape[1:]), requires_grad=rows.requires_grad)

        part = nn.Linear(weight.shape[1], size, bias=bias is not None, device="meta")
        part.weight = mine(weight)
        if bias is not None:
            part.bias = mine(bias)
        parts[name] = part
    return SplitLinear(fused, parts)
