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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.running import Batch, backbone, hooked, inference, inputs_of
from ..calibration.statistics import LayerStatistics
from ..calibration.walk import block_of
from ..errors import LosparseError
from .factored import FactoredLinear, SharedFactorLinear
from .linear import bias_of, weight_of
from .spanning_rows import spanning_rows

# Largest relative error (Frobenius norm) of the stored product, in units of its dtype's eps. Coefficients of layers
# that do not own the pivots are not bounded, so they round worse than those of `pivots`.
MAX_ERROR = 16.0


@dataclass(frozen=True)
class Unit:
    """Layers that are factored as one: those of a group, or a single one.

    Attributes:
        names: qualified names, in the order in which they are called.
        outputs: output neurons of each.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name that stands for the unit: that of its first layer."""
        return self.names[0]

    def weight(self, layers: Mapping[str, nn.Module]) -> Tensor:
        """Return the stacked weight; (sum of out, in)."""
        weights = [weight_of(layers[name]).detach() for name in self.names]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def bias(self, layers: Mapping[str, nn.Module]) -> Tensor | None:
        """Return the stacked bias, zeros where a layer has none; (sum of out,), or None where none has one."""
        found = [bias_of(layers[name]) for name in self.names]
        if len(found) == 1 or all(bias is None for bias in found):
            return found[0]
        like = next(bias for bias in found if bias is not None)
        parts = [like.new_zeros(out) if b is None else b for b, out in zip(found, self.outputs, strict=True)]
        return torch.cat(parts)

    def statistics(self, known: Mapping[str, LayerStatistics]) -> LayerStatistics:
        """Return the statistics of the stacked layer; their inputs are the same."""
        own = [known[name] for name in self.names]
        if len(own) == 1:
            return own[0]
        return replace(
            own[0],
            fisher_in=_joined([one.fisher_in for one in own], lambda parts: torch.stack(parts).sum(0)),
            fisher_out=_joined([one.fisher_out for one in own], torch.cat),
            sensitivity=_joined([one.sensitivity for one in own], torch.cat),
        )


def _joined(values: Sequence[Tensor | None], join: Callable[[list[Tensor]], Tensor]) -> Tensor | None:
    present = [value for value in values if value is not None]
    return join(present) if len(present) == len(values) else None


def single_units(layers: Mapping[str, nn.Module]) -> list[Unit]:
    """Return every layer as a unit of its own."""
    return [Unit((name,), (len(weight_of(layer)),)) for name, layer in layers.items()]


def joint_units(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch) -> list[Unit]:
    """Find the layers that read the same tensor, by running the model once.

    Args:
        model: to run.
        layers: by qualified name, in the model's order.
        batch: as the model takes it.

    Returns:
        Units that hold every layer once. Layers of a block make a group if they are called one after another with the
        very same tensor, and one of them has as many outputs as a rank can be: it will own the factor. Others stay by
        themselves, and so does a layer that is called more than once (DeBERTa's query and key), or never.
    """
    calls: list[tuple[str, Tensor]] = []

    def note(name: str) -> Any:
        return lambda module, arguments: calls.append((name, arguments[0]))

    with inference(model), hooked(layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()):
        backbone(model, batch)(**inputs_of(batch))
    often = [name for name, _ in calls]
    groups: list[list[str]] = []
    before: Tensor | None = None
    for name, x in calls:
        if often.count(name) > 1:
            before = None
        elif x is before and block_of(model, name) == block_of(model, groups[-1][-1]):
            groups[-1].append(name)
        else:
            groups.append([name])
            before = x
    units: dict[str, Unit] = {}
    for names in groups:
        outputs = tuple(len(weight_of(layers[name])) for name in names)
        width = weight_of(layers[names[0]]).shape[1]
        if len(names) > 1 and max(outputs) >= min(width, sum(outputs)):
            units |= dict.fromkeys(names, Unit(tuple(names), outputs))
    alone = {unit.name: unit for unit in single_units(layers)}
    return list(dict.fromkeys(units.get(name, alone[name]) for name in layers))


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
    options: dict[str, Any] = {
        "kept": 0 if kept is None else len(kept),
        "bias": layer.bias is not None,
        "device": like.device,
        "dtype": like.dtype,
    }
    u, bias = (None if tensor is None else tensor[start : start + outputs] for tensor in (layer.u, layer.bias))
    if owner is not None:
        return SharedFactorLinear(owner, outputs, **options).copy_(u=u, sparse=sparse, kept=kept, bias=bias)
    part = FactoredLinear(layer.in_features, outputs, rank=layer.rank, **options)
    return part.copy_(u=u, v=layer.v, sparse=sparse, kept=kept, bias=bias)


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
    owner = FactoredLinear(
        old.in_features,
        old.out_features,
        rank=old.rank,
        kept=old.kept_count,
        bias=old.bias is not None,
        pivots="out",
        device=like.device,
        dtype=like.dtype,
    )
    others = torch.ones(old.out_features, dtype=torch.bool)
    others[pivots] = False
    owner.copy_(u=parts[place][others], v=v, pivots=pivots)
    new: list[FactoredLinear] = []
    for number, member in enumerate(members):
        layer = owner
        if number != place:
            layer = SharedFactorLinear(
                owner,
                member.out_features,
                kept=member.kept_count,
                bias=member.bias is not None,
                device=like.device,
                dtype=like.dtype,
            ).copy_(u=parts[number])
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
