r"""Layers that read the same input and share one right factor: query, key and value; gate and up.

    W = [W_1; W_2; ...]  ~  [u_1; u_2; ...] v          factored as one layer, (sum of out, in)

      x (.., in) -- v (rank, in) --+-- u_1 (out_1, rank) -- y_1
                                   +-- u_2 (out_2, rank) -- y_2

One `v` is stored for all, so the same budget buys a higher rank. One layer owns `v`; the others are
`SharedFactorLinear`. With pivots, `v` holds `rank` outputs of one of the layers (the owner then), and rank^2
parameters are saved for the group.

References:
    Data-free joint rank-k approximation, arXiv:2402.16319, for a basis that several weights share; the metric, kept
    rows and pivots are those of the method that factors the stacked weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import LosparseError
from .factored import FactoredLinear
from .spanning_rows import spanning_rows
from .spec import LayerSpec
from .training import TrainingForm

# Largest relative error (Frobenius norm) of the stored product, in units of its dtype's eps. Coefficients of layers
# that do not own the pivots are not bounded, so they round worse than those of `pivots`.
MAX_ERROR = 16.0


class SharedFactorLinear(FactoredLinear):
    """A layer whose `v` is that of another layer, its owner, which reads the same input.

    The owner stores `v`: it is neither a parameter nor in the state dict of this layer. What is put in the owner's
    place must be put in this layer's `owner` too.

    Attributes:
        u: (out, rank); the rank is the owner's, and may exceed the outputs.
    """

    shares_v: ClassVar[bool] = True

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

    @property
    def owner(self) -> FactoredLinear:
        """The layer that stores `v`."""
        return self._owner[0]

    @property
    def v(self) -> nn.Parameter | None:  # type: ignore[override]
        """The owner's factor; (rank, in)."""
        return self.owner.v


def empty_layer(
    spec: LayerSpec,
    owner: FactoredLinear | None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> FactoredLinear:
    """Allocate an empty layer that stores its own `v`, or that of kept rows which shares its owner's."""
    if owner is None:
        return FactoredLinear.from_spec(spec, device=device, dtype=dtype)
    return SharedFactorLinear(owner, spec.out_features, kept=spec.kept, bias=spec.bias, device=device, dtype=dtype)


@torch.no_grad()
def split(layer: FactoredLinear, outputs: Sequence[int]) -> list[FactoredLinear]:
    """Take a stacked layer apart: one layer for each, the largest of which owns `v`.

    Args:
        layer: compact, of plain factors and kept rows; (sum of out, in).
        outputs: output neurons of each.

    Returns:
        Layers that stand for the rows of the stacked weight, without any rounding.
    """
    starts = [sum(outputs[:place]) for place in range(len(outputs))]
    largest = outputs.index(max(outputs))
    owner = _part(layer, starts[largest], outputs[largest], None)
    return [
        owner if place == largest else _part(layer, starts[place], count, owner if layer.rank else None)
        for place, count in enumerate(outputs)
    ]


def _part(layer: FactoredLinear, start: int, outputs: int, owner: FactoredLinear | None) -> FactoredLinear:
    """Return the layer of some rows of a stacked one, with a `v` of its own or that of an owner."""
    sparse: Tensor | None = layer.sparse
    kept = layer.kept
    if sparse is not None and kept is not None:
        mine = (kept >= start) & (kept < start + outputs)
        sparse, kept = sparse[mine], kept[mine] - start
    tensors: list[Tensor | None] = [layer.u, layer.sparse, layer.bias, torch.zeros(())]
    like = next(tensor for tensor in tensors if tensor is not None)
    u, bias = (None if tensor is None else tensor[start : start + outputs] for tensor in (layer.u, layer.bias))
    spec = replace(layer.spec, out_features=outputs, kept=0 if kept is None else len(kept), shares_v=owner is not None)
    part = empty_layer(spec, owner, device=like.device, dtype=like.dtype)
    return part.copy_(u=u, v=None if owner is not None else layer.v, sparse=sparse, kept=kept, bias=bias)


@torch.no_grad()
def group_with_pivots(members: Sequence[FactoredLinear]) -> list[FactoredLinear] | None:
    """Store the low-rank part of a group by pivots: outputs of one of its layers, which then owns `v`.

    Every layer with enough outputs is tried, and the one that leaves the smallest error is taken.

    Args:
        members: the owner of `v` and those that share it, in any order, of plain factors; they are not changed.

    Returns:
        Layers in the same order that stand for the same weights, up to rounding, and store rank^2 parameters less;
        None where rounding would be worse than `MAX_ERROR`.

    Raises:
        LosparseError: the factors hold NaN or infinity.
    """
    u = torch.cat([_factor(member.u) for member in members])
    v = _factor(members[0].v)
    if not (torch.isfinite(u).all() and torch.isfinite(v).all()):
        raise LosparseError("the factors of its group hold NaN or infinity; train the model again")
    exact = u @ v
    norm = max(float(torch.linalg.matrix_norm(exact)), torch.finfo(torch.float64).tiny)
    best: tuple[float, list[FactoredLinear] | None] = (MAX_ERROR, None)
    for place, member in enumerate(members):
        if member.out_features < member.rank:
            continue
        own = _factor(member.u)
        rows = torch.from_numpy(spanning_rows(own.numpy())[0])
        square = own[rows]
        combined, failed = torch.linalg.solve_ex(square.T, u.T)
        if int(failed) or not torch.isfinite(combined.sum()):
            continue  # this layer's outputs do not span those of the others
        new = _owned_by(members, place, combined.T, square @ v, rows)
        stored = torch.cat([layer.factors()[0].double().cpu() for layer in new])  # type: ignore[index]
        shared = _factor(new[place].v)
        error = float(torch.linalg.matrix_norm(stored @ shared - exact)) / norm
        error /= torch.finfo(new[place].v.dtype).eps  # type: ignore[union-attr]
        if error < best[0]:
            best = (error, new)
    return best[1]


def _factor(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "the layers of a group have a low-rank part"
    return tensor.detach().to("cpu", torch.float64)


def _owned_by(
    members: Sequence[FactoredLinear], place: int, u: Tensor, v: Tensor, pivots: Tensor
) -> list[FactoredLinear]:
    """Build the layers of a group anew, with pivots among the outputs of one of them."""
    parts = torch.split(u, [member.out_features for member in members])
    old = members[place]
    like = next(old.parameters())
    spec = replace(old.spec, pivot_side="out", shares_v=False)
    owner = FactoredLinear.from_spec(spec, device=like.device, dtype=like.dtype)
    others = torch.ones(old.out_features, dtype=torch.bool)
    others[pivots] = False
    owner.copy_(u=parts[place][others], v=v, pivots=pivots)
    new: list[FactoredLinear] = []
    for number, member in enumerate(members):
        layer = owner
        if number != place:
            layer = empty_layer(member.spec, owner, device=like.device, dtype=like.dtype).copy_(u=parts[number])
        layer.copy_(sparse=member.sparse, kept=member.kept, bias=member.bias)
        new.append(layer.train(member.training))
    return new


def groups_of(model: nn.Module) -> list[list[FactoredLinear]]:
    """Return the layers of every group, its owner first."""
    groups: dict[FactoredLinear, list[FactoredLinear]] = {}
    for module in model.modules():
        if isinstance(module, SharedFactorLinear):
            groups.setdefault(module.owner, [module.owner]).append(module)
    return list(groups.values())


def layer_specs(model: nn.Module) -> dict[str, LayerSpec]:
    """Return what every factored layer of a model is, by qualified name; owners of shared factors are named."""
    names = {module: name for name, module in model.named_modules() if isinstance(module, FactoredLinear)}
    return {
        name: replace(module.spec, v_of=names[module.owner]) if isinstance(module, SharedFactorLinear) else module.spec
        for module, name in names.items()
    }
