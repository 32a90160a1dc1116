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

    pivots="out"                                              pivots="in"
      y_P = x v^T         v (rank, in)                          h = x_P + x_rest v^T   v (rank, in - rank)
      y_rest = y_P u^T    u (out - rank, rank)                  y = h u^T              u (out, rank)

`FactoredLinear` is the small form: it is what is saved, exported and served. A `TrainingForm` is what a method
trains, and `compact()` turns it into the small form; LoSparse's is in `residual`, LPAF's in `mixed_rank`.

References:
    LoSparse, arXiv:2306.11222, eq. 2 (W ~ U V + S). PIFA (Zhao et al., ICML 2025), for pivots.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LosparseError
from .lazy_weight import LazyWeight

Axis = Literal["out", "in"]
PivotSide = Literal["out", "in"]


class FactoredLinear(nn.Module):
    """A linear layer `y = (x v^T) u^T + scatter(x sparse^T) + bias` of compact tensors.

    Attributes:
        u: second factor, None where it would be empty; (out, rank), with pivot outputs their rows left out.
        v: first factor, None where it would be empty; (rank, in), with pivot inputs their columns left out.
        pivot_side: whether `pivots` are outputs ("out") or inputs ("in"); None for plain factors.
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

    owns_v: ClassVar[bool] = True
    """Whether `v` is stored with this layer; not so in `SharedFactorLinear`."""

    @staticmethod
    def largest_rank(in_features: int, out_features: int) -> int:
        """Return the largest rank a layer of these sizes can have."""
        return min(in_features, out_features)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        kept: int,
        axis: Axis = "out",
        bias: bool = True,
        pivots: PivotSide | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Allocate an empty layer; fill it with `copy_` or by loading a state dict.

        Raises:
            LosparseError: a size is out of range, or the axis or the side of the pivots is unknown.
        """
        super().__init__()
        _check_sizes(in_features, out_features, rank, kept, axis, self.largest_rank(in_features, out_features))
        if pivots not in (None, "out", "in"):
            raise LosparseError(f"pivots must be 'out' (outputs), 'in' (inputs) or None, got {pivots!r}")
        self.in_features, self.out_features = in_features, out_features
        self.rank, self.kept_count, self.axis = rank, kept, axis
        self.pivot_side = pivots if rank else None

        def parameter(*shape: int) -> nn.Parameter | None:
            return None if 0 in shape else nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        self.register_parameter("u", parameter(out_features - (rank if self.pivot_side == "out" else 0), rank))
        if self.owns_v:
            self.register_parameter("v", parameter(rank, in_features - (rank if self.pivot_side == "in" else 0)))
        self.register_parameter("sparse", parameter(*self._sparse_shape()))
        self.register_buffer("kept", torch.arange(kept, device=device, dtype=torch.int64) if kept else None)
        self.register_buffer("pivots", torch.arange(rank, device=device) if self.pivot_side else None)
        self.register_parameter("bias", parameter(out_features) if bias else None)

    def _sparse_shape(self) -> tuple[int, int]:
        out = self.axis == "out"
        return (self.kept_count, self.in_features) if out else (self.out_features, self.kept_count)

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
            attrs={
                "axis": self.axis,
                "rank": self.rank,
                "kept_count": self.kept_count,
                "in_features": self.in_features,
                "out_features": self.out_features,
                **({} if self.pivot_side is None else {"pivot_side": self.pivot_side}),
                **({} if self.owns_v else {"shared_v": 1}),
            },
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
        saved = self.rank if self.pivot_side else 0
        return self.rank * (self.in_features + self.out_features - saved) + math.prod(self._sparse_shape())

    def extra_repr(self) -> str:
        """Return the sizes shown by `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"kept={self.kept_count}, axis={self.axis!r}, bias={self.bias is not None}"
            + (f", pivots={self.pivot_side!r}" if self.pivot_side else "")
        )


class SharedFactorLinear(FactoredLinear):
    """A layer whose `v` is that of another layer, its owner, which reads the same input; see `joint`.

    The owner stores `v`: it is neither a parameter nor in the state dict of this layer. What is put in the owner's
    place must be put in this layer's `owner` too.

    Attributes:
        u: (out, rank); the rank is the owner's, and may exceed the outputs.
    """

    owns_v: ClassVar[bool] = False

    def __init__(
        self,
        owner: FactoredLinear,
        out_features: int,
        *,
        kept: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Allocate an empty layer of kept rows and a share in the owner's factor.

        Raises:
            LosparseError: a size is out of range, or the owner has no `v` that can be shared.
        """
        if not owner.rank or owner.pivot_side == "in" or isinstance(owner, SharedFactorLinear | TrainingForm):
            raise LosparseError("only the whole v of a compact layer that stores it can be shared with other layers")
        self._owner = (owner,)  # in a tuple, so that it does not become a part of this module
        super().__init__(
            owner.in_features, out_features, rank=owner.rank, kept=kept, bias=bias, device=device, dtype=dtype
        )

    @staticmethod
    def largest_rank(in_features: int, out_features: int) -> int:
        """Return the largest rank the owner can have."""
        return in_features

    @property
    def owner(self) -> FactoredLinear:
        """The layer that stores `v`."""
        return self._owner[0]

    @property
    def v(self) -> nn.Parameter | None:  # type: ignore[override]
        """The owner's factor; (rank, in)."""
        return self.owner.v

    def parameter_count(self) -> int:
        """Count what is stored here: u and sparse."""
        return super().parameter_count() - self.rank * self.in_features


class TrainingForm(FactoredLinear, ABC):
    """A layer while a method trains it; `compact()` gives the small layer it has become.

    Attributes:
        trainer: name of the form in config.json, by which a Trainer's checkpoint is built again.
        settings: what the constructor takes beside sizes, rank and bias; attributes of the same names, of JSON types.
        sparse: the matrix that is pruned; (out, in).
    """

    trainer: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    sparse: nn.Parameter

    @property
    @abstractmethod
    def kept_groups(self) -> int:
        """Groups of `sparse` that `compact()` would keep now."""

    @abstractmethod
    def compact(self) -> FactoredLinear:
        """Return the small layer.

        Raises:
            LosparseError: training has not come so far that there is one.
        """


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


def _check_sizes(in_features: int, out_features: int, rank: int, kept: int, axis: str, limit: int) -> None:
    if axis not in ("out", "in"):
        raise LosparseError(f"axis must be 'out' (rows) or 'in' (columns), got {axis!r}")
    if in_features < 1 or out_features < 1:
        raise LosparseError(f"a linear layer needs at least one input and one output, got {out_features}x{in_features}")
    if not 0 <= rank <= limit:
        raise LosparseError(f"rank must be in 0..{limit} for a {out_features}x{in_features} layer, got {rank}")
    groups = out_features if axis == "out" else in_features
    if not 0 <= kept <= groups:
        raise LosparseError(f"kept must be in 0..{groups} for a {out_features}x{in_features} layer, got {kept}")
