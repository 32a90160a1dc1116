r"""The layer every method yields: a low-rank part plus a structured sparse part.

    axis="out" (rows, the paper)              axis="in" (columns)

      x (.., in)                                x (.., in)
      |------------------+                      |-------------------+
      v (rank, in)       sparse (kept, in)      v (rank, in)        x[.., kept]
      |                  |                      |                   |
      u (out, rank)      |                      u (out, rank)       sparse (out, kept)
      |                  |                      |                   |
      y (.., out) <--- add at outputs `kept`    y (.., out) <------ add
      + bias                                    + bias

*Pivots* are a second stored form of the same low-rank part, with rank^2 parameters fewer: `rank` of its own outputs, or
of its inputs, span it, and the full `u`, or `v`, is the identity there:

    pivot_side="out"                                          pivot_side="in"
      y_P = x v^T         v (rank, in)                          h = x_P + x_rest v^T   v (rank, in - rank)
      y_rest = y_P u^T    u (out - rank, rank)                  y = h u^T              u (out, rank)

`FactoredLinear` is the small form: it is what is saved, exported and served. A `TrainingForm` (`training`) is what a
method trains, and `compact()` turns it into the small form.

References:
    LoSparse, arXiv:2306.11222, eq. 2 (W ~ U V + S). PIFA (Zhao et al., ICML 2025), for pivots.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lazy_weight import LazyWeight
from .spec import Axis, LayerSpec, PivotSide


class FactoredLinear(nn.Module):
    """A linear layer `y = (x v^T) u^T + scatter(x sparse^T) + bias` of compact tensors.

    Attributes:
        u: second factor, None where it would be empty; (out, rank), with pivot outputs their rows left out.
        v: first factor, None where it would be empty; (rank, in), with pivot inputs their columns left out.
        spec: its sizes, and how it is stored.
        pivots: sorted outputs (or inputs) at which the full `u` (or `v`) is the identity; int64 (rank,), or None.
        sparse: kept part of the residual, None when nothing is kept; (kept, in) or (out, kept).
        kept: sorted output neurons (`axis="out"`) or input features (`axis="in"`) of `sparse`; int64 (kept,).
        bias: (out,) or None.
    """

    u: nn.Parameter | None
    v: nn.Parameter | None
    sparse: nn.Parameter | None
    bias: nn.Parameter | None
    kept: Tensor | None
    pivots: Tensor | None

    shares_v: ClassVar[bool] = False
    """Whether `v` is stored with another layer; so in `SharedFactorLinear`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        kept: int,
        axis: Axis = "out",
        bias: bool = True,
        pivot_side: PivotSide | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Allocate an empty layer; fill it with `copy_` or by loading a state dict.

        Raises:
            LosparseError: a size is out of range, or the axis or the side of the pivots is unknown.
        """
        super().__init__()
        spec = LayerSpec(out_features, in_features, rank, kept, axis, bias, pivot_side, self.shares_v)
        self.spec = spec if rank else replace(spec, pivot_side=None)
        shapes = self.spec.shapes()

        def parameter(part: str) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(shapes[part], device=device, dtype=dtype)) if part in shapes else None

        for part in ("u", "sparse", "bias") if self.shares_v else ("u", "v", "sparse", "bias"):
            self.register_parameter(part, parameter(part))
        self.register_buffer("kept", torch.arange(kept, device=device, dtype=torch.int64) if kept else None)
        self.register_buffer("pivots", torch.arange(rank, device=device) if "pivots" in shapes else None)

    @staticmethod
    def from_spec(
        spec: LayerSpec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> FactoredLinear:
        """Allocate an empty layer of these sizes that stores its own factors; see `empty_layer` for one that shares."""
        return FactoredLinear(
            spec.in_features,
            spec.out_features,
            rank=spec.rank,
            kept=spec.kept,
            axis=spec.axis,
            bias=spec.bias,
            pivot_side=spec.pivot_side,
            device=device,
            dtype=dtype,
        )

    @property
    def in_features(self) -> int:
        """Inputs."""
        return self.spec.in_features

    @property
    def out_features(self) -> int:
        """Outputs."""
        return self.spec.out_features

    @property
    def rank(self) -> int:
        """Inner width of the low-rank part."""
        return self.spec.rank

    @property
    def kept_count(self) -> int:
        """Kept rows or columns of the sparse part."""
        return self.spec.kept

    @property
    def axis(self) -> Axis:
        """Whether rows ("out") or columns ("in") are kept."""
        return self.spec.axis

    @property
    def pivot_side(self) -> PivotSide | None:
        """Whether `pivots` are outputs ("out") or inputs ("in"); None for plain factors."""
        return self.spec.pivot_side

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: any leading shape; (..., in).

        Returns:
            (..., out).
        """
        if torch.onnx.is_in_onnx_export():
            return self._symbolic(x)
        low_rank = self._low_rank(x)
        if self.sparse is None or self.kept is None:
            return low_rank if low_rank is not None else self._constant(x)
        if self.axis == "in":
            columns = F.linear(x.index_select(-1, self.kept), self.sparse, None if low_rank is not None else self.bias)
            return columns if low_rank is None else low_rank + columns
        rows = F.linear(x, self.sparse)  # (..., kept)
        base = low_rank if low_rank is not None else self._constant(x).to(rows.dtype)
        return base.index_add(-1, self.kept, rows)

    def _low_rank(self, x: Tensor) -> Tensor | None:
        """Return the low-rank part with the bias added, None at rank 0; (..., out)."""
        if self.pivot_side == "in" and self.u is not None and self.pivots is not None:
            x = x.index_select(-1, _pivots_first(self.pivots, self.in_features))
            hidden = x[..., : self.rank]
            if self.v is not None:
                hidden = hidden + F.linear(x[..., self.rank :], self.v)
            return F.linear(hidden, self.u, self.bias)
        # Pivot outputs: the pivots' identity is put in place among the rows of u. Doing so to the outputs instead would
        # save rank^2 products per token, and take up to twice as long: moving single numbers is slow.
        factors = self.factors()
        return None if factors is None else F.linear(F.linear(x, factors[1]), factors[0], self.bias)

    def _constant(self, x: Tensor) -> Tensor:
        """Return the output of a layer of which nothing was kept: the bias, or zeros; (..., out)."""
        zeros = x.new_zeros((*x.shape[:-1], self.out_features))
        return zeros if self.bias is None else zeros + self.bias

    def _symbolic(self, x: Tensor) -> Tensor:
        """Leave one opaque node in the graph, so that the exporter can choose how to lower the layer."""
        result: Tensor = torch.onnx.ops.symbolic(
            "losparse::FactoredLinear",
            (x, self.u, self.v, self.sparse, self.kept, self.bias, self.pivots),
            attrs=self.spec.to_attributes(),
            dtype=x.dtype,
            shape=(*x.shape[:-1], self.out_features),
            version=1,
        )
        return result

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return the full factors u (out, rank), v (rank, in), the pivots' identity in its place; None at rank 0."""
        u: Tensor | None = self.u
        v: Tensor | None = self.v
        one = u if u is not None else v
        if one is None:
            return None
        if self.pivots is not None:
            identity = torch.eye(self.rank, device=one.device, dtype=one.dtype)
            if self.pivot_side == "out":
                u = _pivots_in_place(identity, u, 0, self.pivots)
            else:
                v = _pivots_in_place(identity, v, 1, self.pivots)
        assert u is not None and v is not None, "only the factor at the pivots' side can be empty"
        return u, v

    @property
    def weight(self) -> Tensor:
        """The dense weight as models read it of a linear layer, computed when its values are used; (out, in)."""
        return LazyWeight(self._dense, (self.out_features, self.in_features), self._reference())

    def _reference(self) -> Tensor:
        """Return a tensor of the layer's dtype and device."""
        return next(t for t in (self.u, self.v, self.sparse, self.bias, torch.zeros(())) if t is not None)

    def _dense(self) -> Tensor:
        """Return the dense weight, with gradients; (out, in)."""
        factors, shape = self.factors(), (self.out_features, self.in_features)
        weight = self._reference().new_zeros(shape) if factors is None else factors[0] @ factors[1]
        if self.sparse is not None and self.kept is not None:
            weight = weight.index_add(0 if self.axis == "out" else 1, self.kept, self.sparse)
        return weight

    @torch.no_grad()
    def dense_weight(self) -> Tensor:
        """Return a copy of the dense weight this layer stands for; (out, in)."""
        return self._dense()

    @torch.no_grad()
    def copy_(
        self,
        *,
        u: Tensor | None = None,
        v: Tensor | None = None,
        sparse: Tensor | None = None,
        kept: Tensor | None = None,
        bias: Tensor | None = None,
        pivots: Tensor | None = None,
    ) -> FactoredLinear:
        """Copy values into the tensors of this layer; absent ones stay as they are."""
        for name, value in {"u": u, "v": v, "sparse": sparse, "kept": kept, "bias": bias, "pivots": pivots}.items():
            mine = getattr(self, name)
            if value is not None and mine is not None:
                mine.copy_(value)
        return self

    def parameter_count(self) -> int:
        """Count the parameters the budget counts: u, v and sparse as stored; neither indices nor bias."""
        return self.spec.parameters

    def extra_repr(self) -> str:
        """Return the sizes shown by `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"kept={self.kept_count}, axis={self.axis!r}, bias={self.bias is not None}"
            + (f", pivot_side={self.pivot_side!r}" if self.pivot_side else "")
        )


def _pivots_first(pivots: Tensor, size: int) -> Tensor:
    """Return the numbers 0..size with the pivots in front and the others behind, both sorted; int64 (size,)."""
    # By sorting flags: a list of the others would make a GPU wait, because its length depends on values.
    others = torch.ones(size, dtype=torch.uint8, device=pivots.device).index_fill_(0, pivots, 0)
    return others.argsort(stable=True)


def _pivots_in_place(pivots: Tensor, others: Tensor | None, dim: int, places: Tensor | None) -> Tensor:
    """Join what belongs to the pivots and what belongs to the others along `dim`, in the features' own order."""
    if others is None or places is None:  # every feature is a pivot
        return pivots
    joined = torch.cat([pivots, others], dim)
    return joined.index_select(dim, _pivots_first(places, joined.shape[dim]).argsort())
