"""The forms a factored layer can take in a graph of standard operators, one file each; `base` says what a form is."""

from . import (
    absorbed,
    columns,
    constant,
    dense,
    folded,
    gather,
    low_rank,
    pivots_in,
    pivots_out,
    selector,
    sliced,
    split,
)
from .base import LayerTape, Lowering

# In order of preference: of two forms of equal cost the earlier one is taken.
LOWERINGS: tuple[Lowering, ...] = (
    constant,
    dense,
    low_rank,
    split,
    folded,
    sliced,
    selector,
    pivots_out,
    pivots_in,
    absorbed,
    gather,
    columns,
)

__all__ = ["LOWERINGS", "LayerTape", "Lowering"]
