from typing import ClassVar

import torch
from torch import Tensor

from losparse.calibration.statistics import LayerStatistics
from losparse.layers.factored import FactoredLinear
from losparse.layers.spec import LayerSpec
from losparse.methods import Description, OneShot
from losparse.methods.one_shot.allocate import Size
from losparse.methods.one_shot.base import Allocation
from losparse.validation import OneOrMore, checked


@checked
class LongestRows(OneShot):
    """Keep the longest rows of every weight, and nothing of the others.

    Attributes:
        norm: by which rows are long.
    """

    norm: OneOrMore = 2

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform", "last-k", "by-type", "search")  # it has no rank
    description: ClassVar[Description] = Description(
        summary="the longest rows of every weight", needs=(), cost="seconds", reference="a test"
    )

    def at_share(self, name: str, share: float, out_features: int, in_features: int) -> Size:
        """Return how many rows hold a share of the weight."""
        return Size(rank=0, kept=int(share * out_features))

    def factor(
        self, name: str, weight: Tensor, bias: Tensor | None, statistics: LayerStatistics, size: Size
    ) -> FactoredLinear:
        """Return the layer of the longest rows."""
        kept = torch.sort(torch.topk(weight.norm(p=float(self.norm), dim=1), size.kept).indices).values
        spec = LayerSpec(weight.shape[0], weight.shape[1], rank=0, kept=size.kept, bias=bias is not None)
        layer = FactoredLinear.from_spec(spec, device=weight.device, dtype=weight.dtype)
        return layer.copy_(sparse=weight[kept], kept=kept, bias=bias)
