"""The layer LoSparse trains: two factors, the whole residual, and the mask of what is kept of it.

References:
    LoSparse, arXiv:2306.11222; see `algorithm`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers.factored import FactoredLinear
from ...layers.spec import Axis
from ...layers.training import TrainingForm


class FactoredLinearTraining(TrainingForm):
    """The layer while it is trained: factors, the whole residual, and the mask of what is kept of it.

    The forward pass multiplies the dense weight `u v + sparse` once, so a training step costs about what a step of
    the dense layer costs; the gradients of `u`, `v` and `sparse` follow from the one dense gradient.

    Attributes:
        sparse: the residual; groups outside the mask are zero after every masking step; (out, in).
        mask: which rows (`axis="out"`) or columns (`axis="in"`) are kept; bool (groups,).
        score_avg: exponential moving average of the windowed sensitivity; (groups,), or (out, in) when the
            uncertainty of every element is tracked. In nats.
        score_sum: sum of sensitivities in the current window; same shape as `score_avg`.
        uncertainty_avg: only when uncertainty is tracked; (out, in).
        window_count: optimizer steps in the current window; int64 ().

    The statistics are buffers, so that any checkpoint of the model holds them and a resumed training goes on as if
    it had not stopped.
    """

    trainer = "losparse"
    settings = ("axis", "elementwise")
    mask: Tensor
    score_avg: Tensor
    score_sum: Tensor
    window_count: Tensor
    uncertainty_avg: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        axis: Axis = "out",
        bias: bool = True,
        elementwise: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Allocate the layer with an all-true mask; `elementwise` keeps statistics per element (PLATON).

        Raises:
            LosparseError: a size is out of range, or the axis is unknown.
        """
        groups = out_features if axis == "out" else in_features
        super().__init__(
            in_features, out_features, rank=rank, kept=groups, axis=axis, bias=bias, device=device, dtype=dtype
        )
        self.kept = None  # which groups are kept is the mask's business until compact()
        self.elementwise = elementwise
        shape = (out_features, in_features) if elementwise else (groups,)
        self.register_buffer("mask", torch.ones(groups, dtype=torch.bool, device=device))
        self.register_buffer("score_avg", torch.zeros(shape, device=device))
        self.register_buffer("score_sum", torch.zeros(shape, device=device))
        self.register_buffer("window_count", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("uncertainty_avg", torch.zeros(shape, device=device) if elementwise else None)

    @property
    def group_size(self) -> int:
        """Parameters one kept group costs: `in` for a row, `out` for a column."""
        return self.in_features if self.axis == "out" else self.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; (..., in) -> (..., out)."""
        return F.linear(x, self._dense(), self.bias)

    def _dense(self) -> Tensor:
        if self.u is None or self.v is None:
            return self.sparse
        return torch.addmm(self.sparse, self.u, self.v)

    @torch.no_grad()
    def dense_weight(self) -> Tensor:
        """Return the dense weight this layer stands for; (out, in)."""
        return self._dense().clone()

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Zero the groups of the residual that the mask drops."""
        dropped = ~self.mask
        self.sparse.masked_fill_(dropped[:, None] if self.axis == "out" else dropped[None, :], 0.0)

    def parameter_count(self) -> int:
        """Count what the compact form of the present mask would store."""
        return replace(self.spec, kept=self.kept_groups).parameters

    @property
    def kept_groups(self) -> int:
        """Groups inside the mask."""
        return int(self.mask.sum())

    @torch.no_grad()
    def compact(self) -> FactoredLinear:
        """Return the small layer: only the kept groups of the residual, in their order."""
        kept = self.mask.nonzero().flatten()
        spec = replace(self.spec, kept=len(kept))
        layer = FactoredLinear.from_spec(spec, device=self.sparse.device, dtype=self.sparse.dtype)
        sparse = self.sparse.index_select(0 if self.axis == "out" else 1, kept)
        return layer.copy_(u=self.u, v=self.v, sparse=sparse, kept=kept, bias=self.bias)
