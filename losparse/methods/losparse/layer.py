"""The layer LoSparse trains: two factors, the whole residual, and the mask of what is kept of it.

References:
    LoSparse, arXiv:2306.11222; see `algorithm`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.factored import FactoredLinear
from ...layers.spec import Axis
from ...layers.training import TrainingForm


class FactoredLinearTraining(TrainingForm):
    """The layer while it is trained: factors, the whole residual, and the mask of what is kept of it.

    Where heads go whole (`by_heads`), the low-rank part of a head goes with it: rows of `u` (`axis="out"`), or columns
    of `v` (`axis="in"`), outside `live` are zero after every masking step, and stay so in the compact layer.

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
        live: only where heads go whole and there is a low-rank part: groups that keep theirs; bool (groups,).
        beside_avg: only there: as `score_avg`, of the low-rank part, summed over a group's parameters; (groups,).
        beside_sum: sum of that in the current window; (groups,).

    The statistics are buffers, so that any checkpoint of the model holds them and a resumed training goes on as if
    it had not stopped.
    """

    trainer = "losparse"
    settings = ("axis", "elementwise", "by_heads")
    mask: Tensor
    score_avg: Tensor
    score_sum: Tensor
    window_count: Tensor
    uncertainty_avg: Tensor | None
    live: Tensor | None
    beside_avg: Tensor | None
    beside_sum: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        axis: Axis = "out",
        bias: bool = True,
        elementwise: bool = False,
        by_heads: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Allocate the layer with an all-true mask.

        Args:
            in_features: columns of the weight.
            out_features: its rows.
            rank: of the low-rank part.
            axis: side of the weight that is kept in groups.
            bias: whether there is one.
            elementwise: keep statistics of every element (PLATON).
            by_heads: heads go whole, with their low-rank part.
            device: of the tensors.
            dtype: of the parameters.

        Raises:
            LosparseError: a size is out of range, or the axis is unknown.
        """
        groups = out_features if axis == "out" else in_features
        super().__init__(
            in_features, out_features, rank=rank, kept=groups, axis=axis, bias=bias, device=device, dtype=dtype
        )
        self.kept = None  # which groups are kept is the mask's business until compact()
        self.elementwise, self.by_heads = elementwise, by_heads
        shape = (out_features, in_features) if elementwise else (groups,)
        self.register_buffer("mask", torch.ones(groups, dtype=torch.bool, device=device))
        self.register_buffer("score_avg", torch.zeros(shape, device=device))
        self.register_buffer("score_sum", torch.zeros(shape, device=device))
        self.register_buffer("window_count", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("uncertainty_avg", torch.zeros(shape, device=device) if elementwise else None)
        low_rank = by_heads and rank > 0
        self.register_buffer("live", torch.ones(groups, dtype=torch.bool, device=device) if low_rank else None)
        for name in ("beside_avg", "beside_sum"):
            self.register_buffer(name, torch.zeros(groups, device=device) if low_rank else None)

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
        """Zero the groups of the residual that the mask drops, and the low-rank part of heads that are gone."""
        for parameter, dropped in self.dropped():
            parameter.masked_fill_(dropped, 0.0)

    def dropped(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the parameters that are masked, and where: bool, of a shape that broadcasts to the parameter's."""
        by_group = [(self.sparse, ~self.mask)]
        factor = self.grouped_factor
        if factor is not None and self.live is not None:
            by_group.append((factor, ~self.live))
        return [(one, dropped[:, None] if self.axis == "out" else dropped[None, :]) for one, dropped in by_group]

    @property
    def grouped_factor(self) -> nn.Parameter | None:
        """The factor that has the groups: u (out, rank) of a layer of rows, v (rank, in) of one of columns."""
        return self.u if self.axis == "out" else self.v

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
