"""A model's low-rank parts stored by pivots, as `compact_` does it for methods that ask for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from losparse.layers.linear import replace_module
from losparse.layers.pivots import pivot_forms
from losparse.layers.spec import PivotSide
from losparse.models.roles import pivot_side_of
from losparse.saving.quantizer import mark_compressed


def store_pivots_(model: nn.Module, side_of: Callable[[str], PivotSide] = pivot_side_of) -> dict[str, str]:
    """Store every low-rank part by pivots, in place; returns why layers were left, by name."""
    new, left = pivot_forms(model, side_of)
    for old, stored in new.items():
        replace_module(model, old, stored)
    if new:
        mark_compressed(model, None)
    return left
