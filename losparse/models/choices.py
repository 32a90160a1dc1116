"""What recipes choose of a model beside its layers, by the names that they have for it; loads no torch."""

from __future__ import annotations

from typing import Literal

KeepLayersBy = Literal["even", "importance"]
"""How a number of blocks is chosen; see `depth`."""

KeepNeuronsBy = Literal["error", "norm"]
"""How feed-forward neurons are chosen; see `neurons`."""

EmbeddingRows = Literal["float", "int8"]
"""How rows of embedding tables are stored; see `losparse.layers.embedding`."""
