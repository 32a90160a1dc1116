"""From plain factors to pivots: the same low-rank part in rank^2 parameters fewer.

A product `u v` of rank r needs only r of its own rows: `u v = C (u v)_P`, with the identity at the pivot rows P of C.
What is stored is `(u v)_P` and the other rows of C. Pivot inputs are the same of the transpose. The coefficients C are
at most 1.5 in magnitude (`spanning_rows`), so the rounding of a pivot row stays small in the rows it is combined into.

References:
    PIFA (Zhao et al., "Pivoting Factorization", ICML 2025), for the stored form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LosparseError
from .factored import FactoredLinear
from .joint import MAX_ERROR as GROUP_ERROR
from .joint import group_with_pivots, groups_of
from .spanning_rows import spanning_rows
from .spec import PivotSide
from .training import TrainingForm

# Largest relative error (Frobenius norm) of the product, in units of its dtype's eps. Rounding gives below 1; more
# means that the product left the range of the dtype, as happens in fp16.
MAX_ERROR = 4.0


class PivotsLoseError(LosparseError):
    """The product of a layer's factors cannot be stored by pivots in its dtype without losing too much."""


@torch.no_grad()
def to_pivots(layer: FactoredLinear, side: PivotSide) -> FactoredLinear:
    """Store a layer's low-rank part by pivots; the sparse part and the bias stay as they are.

    Computed in float64 on the CPU and rounded once, to the dtype of the layer. The same layer gives the same pivots.

    Args:
        layer: a compact layer of rank 1 or more, of plain factors or of pivots of either side; it is not changed.
        side: "out" for pivot outputs, "in" for pivot inputs.

    Returns:
        A layer of `rank * (in + out - rank)` low-rank parameters that stands for the same weight, up to rounding.

    Raises:
        PivotsLoseError: the product of its factors cannot be stored in its dtype: fp16 overflows at 65504, and loses
            small numbers.
        LosparseError: the layer is in training form, has no low-rank part, or holds NaN or infinity.
    """
    if side not in ("out", "in"):
        raise LosparseError(f"the side of pivots must be 'out' (outputs) or 'in' (inputs), got {side!r}")
    if isinstance(layer, TrainingForm):
        raise LosparseError("pivots are for compact layers, this one is in training form; call compact_(model) first")
    factors = layer.factors()
    if factors is None:
        raise LosparseError("a layer of rank 0 has no low-rank part, pivots need rank 1 or more")
    u, v = (factor.detach().to("cpu", torch.float64) for factor in factors)
    if not (torch.isfinite(u).all() and torch.isfinite(v).all()):
        raise LosparseError("its factors hold NaN or infinity; train the model again")
    spec = replace(layer.spec, pivot_side=side)
    new = FactoredLinear.from_spec(spec, device=factors[0].device, dtype=factors[0].dtype)
    rows, combine = spanning_rows((u if side == "out" else v.T).numpy())
    pivots, others = torch.from_numpy(rows), torch.from_numpy(np.delete(combine, rows, 0))
    if side == "out":
        new.copy_(u=others, v=u[pivots] @ v, pivots=pivots)
    else:
        new.copy_(u=u @ v[:, pivots], v=others.T, pivots=pivots)
    new.copy_(sparse=layer.sparse, kept=layer.kept, bias=layer.bias)
    _check_error(new, u, v)
    return new.train(layer.training)


def pivots_where_possible(layer: FactoredLinear, side: PivotSide) -> FactoredLinear:
    """Return the layer with its low-rank part stored by pivots, or as it is where there is none or that cannot be."""
    if not layer.rank or layer.pivot_side is not None:
        return layer
    try:
        return to_pivots(layer, side)
    except PivotsLoseError:
        return layer


def pivot_forms(
    model: nn.Module, side_of: Callable[[str], PivotSide]
) -> tuple[dict[FactoredLinear, FactoredLinear], dict[str, str]]:
    """Make the pivot forms of a model's compact layers, without changing the model.

    Layers without a low-rank part, and those that have pivots already, are left out. Every other layer, or group of
    layers that share a factor (`joint`), becomes smaller, by rank^2 parameters.

    Args:
        model: with factored layers.
        side_of: gives the side by qualified name.

    Returns:
        What to put in the place of which layer; and of layers that must stay as they are, because the product cannot
        be stored in their dtype, the reason by qualified name.

    Raises:
        LosparseError: a layer is in training form, or holds NaN or infinity.
    """
    new: dict[FactoredLinear, FactoredLinear] = {}
    left: dict[str, str] = {}
    grouped = {layer: group for group in groups_of(model) for layer in group}
    for name, layer in model.named_modules():
        if not isinstance(layer, FactoredLinear) or not layer.rank or layer.pivot_side is not None:
            continue
        group = grouped.get(layer, [layer])
        if layer is not group[0]:  # it comes with its owner
            continue
        try:
            new |= zip(group, _store(group, side_of(name)), strict=True)
        except PivotsLoseError as reason:
            left[name] = str(reason)
        except LosparseError as problem:
            raise LosparseError(f"layer {name!r}: {problem}") from problem
    return new, left


def _store(group: Sequence[FactoredLinear], side: PivotSide) -> list[FactoredLinear]:
    """Return the layers of a group, or a single one, with pivots."""
    if len(group) == 1:
        return [to_pivots(group[0], side)]
    members = group_with_pivots(group)
    if members is None:
        raise PivotsLoseError(f"its factor is shared, and pivots lose over {GROUP_ERROR:g} eps")
    return members


def _check_error(new: FactoredLinear, u: Tensor, v: Tensor) -> None:
    """Refuse a layer whose stored product is too far from `u v`.

    Raises:
        PivotsLoseError: it is.
    """
    factors = new.factors()
    assert factors is not None, "a layer with pivots has a low-rank part"
    eps = torch.finfo(factors[0].dtype).eps
    stored_u, stored_v = (factor.to("cpu", torch.float64) for factor in factors)
    exact = u @ v
    difference = float(torch.linalg.matrix_norm(stored_u @ stored_v - exact))
    error = difference / max(float(torch.linalg.matrix_norm(exact)), torch.finfo(torch.float64).tiny)
    if error <= MAX_ERROR * eps:  # not so for NaN, which infinities leave
        return
    dtype = str(factors[0].dtype).removeprefix("torch.")
    raise PivotsLoseError(
        f"the product of the factors cannot be stored in {dtype}: its relative error may be {MAX_ERROR * eps:.1e}, "
        f"got {error:.1e}"
    )
