"""The forms a factored layer can take in a graph of standard operators, one file each; `base` says what a form is."""

from . import columns, constant, dense, gather, low_rank, selector
from .base import Cost, LayerTape, Lowering

# In order of preference: of two forms of equal cost the earlier one is taken.
LOWERINGS: tuple[Lowering, ...] = (constant, dense, low_rank, selector, gather, columns)

__all__ = ["LOWERINGS", "Cost", "LayerTape", "Lowering"]
