"""Heads of attentions: how many a model has, and which of them its layers keep.

A query, key or value keeps rows, the output behind them columns; a head lives in all four or in none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..layers.spec import LayerSpec
from .roles import Role, place_of, whole_attentions

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

_KEY_HEADS = "num_key_value_heads"


@dataclass(frozen=True)
class Heads:
    """Heads of one layer of an attention; of keys and values, where several queries share one, their own number.

    Attributes:
        live: that keep something, equally many places each.
        of: that the layer has.
    """

    live: int
    of: int

    def width(self, spec: LayerSpec) -> int:
        """Return how many places a live head keeps, and as many more as the rank, but not more than it had."""
        return min(spec.kept // self.live + spec.rank, spec.groups // self.of) if self.live else 0

    def to_entry(self) -> list[int]:
        """Return plain data."""
        return [self.live, self.of]

    @classmethod
    def from_entry(cls, entry: Any) -> Heads | None:
        """Read what `to_entry` wrote; None of anything else, for it is a note and nothing is built from it."""
        whole = isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)
        return cls(*entry) if whole and 0 <= entry[0] <= entry[1] and entry[1] else None


def heads_of(
    specs: Mapping[str, LayerSpec], kept: Mapping[str, torch.Tensor | None], config: PretrainedConfig | None
) -> dict[str, Heads]:
    """Return the heads of the layers of attentions whose live heads keep equally many places each.

    Args:
        specs: of all layers, by qualified name.
        kept: their kept groups, int64 (kept,); None where nothing is.
        config: of the model, for its numbers of heads.
    """
    found: dict[str, Heads] = {}
    for names in whole_attentions(specs):
        found |= _heads(names, specs, kept, config)
    return found


def _heads(
    names: Sequence[str],
    specs: Mapping[str, LayerSpec],
    kept: Mapping[str, torch.Tensor | None],
    config: PretrainedConfig | None,
) -> dict[str, Heads]:
    """Return the heads of query, key, value and output; none where they are not the same, or unequally wide."""
    heads, key_heads = numbers_of_heads(names[0], config)
    if heads < 2 or heads % key_heads:
        return {}
    found: dict[str, Heads] = {}
    living: set[tuple[int, ...]] = set()
    for name, number in zip(names, (heads, key_heads, key_heads, heads), strict=True):
        width, rest = divmod(specs[name].groups, number)
        places = kept[name]
        if rest:
            return {}
        by_head = [0] * number
        for place in [] if places is None else places.tolist():
            by_head[place // width] += 1
        live = [head for head, count in enumerate(by_head) if count]
        if len({by_head[head] for head in live}) > 1:
            return {}
        shared = number // key_heads
        living.add(tuple(sorted({head // shared for head in live})))
        found[name] = Heads(len(live), number)
    # Of low-rank parts alone it is not known which heads they are of.
    unknown = not any(living) and any(specs[name].rank for name in names)
    return found if len(living) == 1 and not unknown else {}


def attention_lines(layers: Iterable[tuple[str, LayerSpec, Heads | None]]) -> list[str]:
    """Say of every attention that lost a head or some of its width what is left of it, in a line.

    Args:
        layers: names, sizes and heads.
    """
    parts: dict[str, dict[Role, tuple[Heads, int]]] = defaultdict(dict)
    narrow: set[str] = set()
    for name, spec, heads in layers:
        place = place_of(name)
        if place is not None and heads is not None:
            parts[place.part][place.role] = heads, heads.width(spec)
            if heads.live < heads.of or heads.width(spec) < spec.groups // heads.of:
                narrow.add(place.part)
    return [
        f"{name}: {said(part['query'][0], part['key'][1], part['value'][1])}"
        for name, part in parts.items()
        if name in narrow and {"query", "key", "value"} <= set(part)
    ]


def said(heads: Heads, score_width: int, value_width: int) -> str:
    """Say how many heads are left, and how wide their queries and keys, and their values, are."""
    return f"heads {heads.live} of {heads.of}, {score_width} + {value_width} wide"


def lists_heads(config: PretrainedConfig | None) -> bool:
    """Tell whether a config lists another number of heads for every stage (Swin's): which is a layer's is unknown."""
    return any(isinstance(getattr(config, key, None), list | tuple) for key in ("num_attention_heads", _KEY_HEADS))


def numbers_of_heads(name: str, config: PretrainedConfig | None) -> tuple[int, int]:
    """Return the numbers of query heads and of key heads of the attention that a layer belongs to; 1 where unknown."""
    own = getattr(config, "decoder_attention_heads", None) if "decoder" in name.split(".") else None
    heads = own or getattr(config, "num_attention_heads", None)
    key_heads = 1 if getattr(config, "multi_query", False) else getattr(config, _KEY_HEADS, None) or heads
    if not isinstance(heads, int) or not isinstance(key_heads, int):
        return 1, 1
    return heads, key_heads


def rotates(config: PretrainedConfig) -> bool:
    """Tell by its config whether a model rotates queries and keys by their positions."""
    if config.model_type in _ROTATE_ALWAYS:
        return True
    for key in ("position_embedding_type", "position_embeddings_type"):
        said = getattr(config, key, None)
        if isinstance(said, str):  # other keys are there whether they are used or not (ESM, Wav2Vec2-Conformer)
            return said == "rotary"
    return any(value for key, value in config.to_dict().items() if "rope" in key or "rotary" in key)


_ROTATE_ALWAYS = ("roformer", "codegen", "gptj")
