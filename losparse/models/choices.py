"""How blocks and neurons to keep are chosen, by the names that recipes have for it; loads no torch."""

from __future__ import annotations

from typing import Literal

KeepLayersBy = Literal["even", "importance"]
"""How a number of blocks is chosen; see `depth`."""

KeepNeuronsBy = Literal["error", "norm"]
"""How feed-forward neurons are chosen; see `neurons`."""
