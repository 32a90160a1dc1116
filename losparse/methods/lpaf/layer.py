"""The layer LPAF trains: the pruned matrix and the factors that take its place, and which of the two is used.

    training    y = x W^T + bias     W = sparse where `high_rank`, else u v
    evaluation  y = x W^T + bias     W = u v once `factored`, sparse before

Every tensor exists from the beginning, with its final shape: an optimizer made before training holds them all.

References:
    LPAF, arXiv:2306.14152; see `algorithm`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import LosparseError
from ...layers.factored import FactoredLinear
from ...layers.training import TrainingForm


class MixedRankLinear(TrainingForm):
    """A linear layer whose weight is either a pruned matrix or two factors.

    Both take part in every forward pass, so that DistributedDataParallel finds no unused parameter; what was not
    chosen gets zeros for gradients, and the callback takes them away before the optimizer sees them.

    Attributes:
        u: second factor, zero until the layer is factored; (out, rank).
        v: first factor, zero until the layer is factored; (rank, in).
        sparse: the whole weight, zero outside the mask after every masking step; (out, in).
        mask: which weights are kept; bool (out, in).
        score: accumulated first-order score, in nats; (out, in).
        factored: whether the factors have been filled; bool ().
        high_rank: whether the forward pass in training uses `sparse`; bool ().

    All that decides what happens next is a buffer, so any checkpoint of the model holds it.
    """

    trainer = "lpaf"
    u: nn.Parameter
    v: nn.Parameter
    mask: Tensor
    score: Tensor
    factored: Tensor
    high_rank: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Allocate the layer with an all-true mask and empty factors.

        Raises:
            LosparseError: a size is out of range.
        """
        if rank < 1:
            raise LosparseError(f"rank must be at least 1 for a mixed-rank layer, got {rank}")
        super().__init__(in_features, out_features, rank=rank, kept=out_features, bias=bias, device=device, dtype=dtype)
        self.kept = None
        shape = (out_features, in_features)
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool, device=device))
        self.register_buffer("score", torch.zeros(shape, device=device))
        self.register_buffer("factored", torch.zeros((), dtype=torch.bool, device=device))
        self.register_buffer("high_rank", torch.ones((), dtype=torch.bool, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; (..., in) -> (..., out)."""
        return F.linear(x, self._dense(), self.bias)

    def _dense(self) -> Tensor:
        return self._weight(self.high_rank if self.training else ~self.factored)

    def _weight(self, high_rank: Tensor) -> Tensor:
        return torch.where(high_rank, self.sparse, self.u @ self.v)  # (out, in)

    @torch.no_grad()
    def dense_weight(self) -> Tensor:
        """Return the dense weight evaluation uses; (out, in)."""
        return self._weight(~self.factored)

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Zero the weights that the mask drops."""
        self.sparse.masked_fill_(~self.mask, 0.0)

    @property
    def kept_groups(self) -> int:
        """All rows before the layer is factored, none after."""
        return 0 if self.factored else self.out_features

    def parameter_count(self) -> int:
        """Count the dense weight before the layer is factored - unstructured zeros save nothing - and factors after."""
        return replace(self.spec, kept=0).parameters if self.factored else self.spec.dense_parameters

    @torch.no_grad()
    def compact(self) -> FactoredLinear:
        """Return the factors as a small layer.

        Raises:
            LosparseError: the layer is not factored yet.
        """
        if not self.factored:
            raise LosparseError(
                f"a {self.out_features}x{self.in_features} layer is not factored yet: training stopped while it was "
                "pruned; train to the end"
            )
        layer = FactoredLinear.from_spec(replace(self.spec, kept=0), device=self.u.device, dtype=self.u.dtype)
        return layer.copy_(u=self.u, v=self.v, bias=self.bias)
