"""Layers that models keep as one product for several: query, key and value; gate and up. Loads no torch.

    Wqkv (3 hidden, hidden)  =  [q; k; v]                          one after another: `blocks` is 1
    query_key_value          =  [q_0; k_0; v_0; q_1; k_1; v_1 ..]  every head has its rows of each: `blocks` is heads

Each part is a layer of its own, named after the whole: "attn.Wqkv.q". Who names the whole means all its parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import LosparseError, shown
from .spec import COPY_AGAIN, is_whole

ATTENTION = ("Wqkv", "qkv_proj", "query_key_value", "c_attn", "in_proj", "att_proj")
"""What models call one product for query, key and value (or for key and value)."""
FEED_FORWARD = ("Wi", "gate_up_proj")
"""What they call one product for the neurons and their gate."""

PARTS = ("q", "k", "v", "gate", "up")
"""Names of parts."""

_PART = re.compile(
    rf"(?P<whole>(?:.*\.)?(?:(?:{'|'.join(ATTENTION)})(?=\.[qkv]$)|(?:{'|'.join(FEED_FORWARD)})(?=\.(?:gate|up)$)))"
    rf"\.(?:{'|'.join(PARTS)})"
)


def whole_of(name: str) -> str | None:
    """Return the name of the product that a layer is a part of, by its name; None of a layer that is no part."""
    found = _PART.fullmatch(name)
    return None if found is None else found["whole"]


@dataclass(frozen=True)
class FusedSpec:
    """How the rows of one product belong to several layers.

    Attributes:
        parts: names and outputs of the layers, in the order in which their rows stand.
        blocks: equal blocks of rows, in each of which every part has its share; 1 where the parts stand one after
            another.
    """

    parts: tuple[tuple[str, int], ...]
    blocks: int = 1

    def __post_init__(self) -> None:
        """Check the sizes against each other.

        Raises:
            LosparseError: a part has no outputs, or not as many in every block.
        """
        if not self.parts or any(size < 1 or self.blocks < 1 or size % self.blocks for _, size in self.parts):
            sizes = ", ".join(f"{name} {size}" for name, size in self.parts)
            raise LosparseError(f"parts of a product must have rows in each of {self.blocks} blocks, got {sizes}")

    @property
    def out_features(self) -> int:
        """Outputs of all parts."""
        return sum(size for _, size in self.parts)

    def to_entry(self) -> dict[str, Any]:
        """Return the product's entry in the `quantization_config` of config.json, whose objects have no order."""
        return {"parts": [[name, size] for name, size in self.parts], "blocks": self.blocks}

    @classmethod
    def from_entry(cls, name: str, entry: Any) -> FusedSpec:
        """Read what `to_entry` wrote.

        Args:
            name: of the product, for messages.
            entry: what stands in config.json.

        Raises:
            LosparseError: it is malformed.
        """
        entry = entry if isinstance(entry, Mapping) else {}
        parts = entry.get("parts")
        names = {part[0] for part in parts if _is_part(part)} if isinstance(parts, list) else set()
        if not names or len(names) < len(parts) or not is_whole(entry.get("blocks"), 1):
            raise LosparseError(
                f"quantization_config entry of {name!r} in 'fused' must have 'parts' (a list of names, of "
                f"{', '.join(PARTS)}, with outputs) and 'blocks' (1 or more), got {shown(entry)}; {COPY_AGAIN}"
            )
        return cls(tuple((part, size) for part, size in parts), entry["blocks"])


def _is_part(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and part[0] in PARTS and is_whole(part[1], 1)
