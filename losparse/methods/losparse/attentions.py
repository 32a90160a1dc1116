"""The attentions of a model whose heads can go whole, by the names and sizes of its layers.

    query (heads * width) ----+
    key   (key heads * width) +-- the same places of every head, or all of them where queries and keys are rotated
    value (key heads * width) +-- the same places of every head
    output's inputs (heads * width) of the value

Where several query heads read one key head (grouped attention), that key head goes with all of them. A rotation mixes
dimensions of queries and keys in pairs on their way to the scores, so that an exported graph could not leave out some
of them: there heads keep all of these dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...models.heads import numbers_of_heads, rotates
from ...models.roles import whole_attentions
from .heads import Attention
from .layer import FactoredLinearTraining

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HEAD_STEP = 16
"""Dimensions of a head that are kept together: products and attention work on as many at a time."""


def find_attentions(layers: Mapping[str, FactoredLinearTraining], config: PretrainedConfig | None) -> list[Attention]:
    """Find the attentions whose four layers are all there and agree in their sizes.

    Args:
        layers: in training form, by qualified name.
        config: of the transformers model, for its numbers of heads and its rotation; None finds nothing.
    """
    found = (_attention(names, layers, config) for names in whole_attentions(layers))
    return [attention for attention in found if attention is not None]


def _attention(
    names: Sequence[str], layers: Mapping[str, FactoredLinearTraining], config: PretrainedConfig | None
) -> Attention | None:
    """Return the attention of query, key, value and output; None where their sizes do not agree."""
    if config is None:
        return None
    query, key, value, output = names
    heads, key_heads = numbers_of_heads(query, config)
    if heads < 2 or heads % key_heads:
        return None
    groups = [len(layers[name].mask) for name in names]
    score, width = groups[1] // key_heads, groups[2] // key_heads
    sizes = [heads * score, key_heads * score, key_heads * width, heads * width]
    axes = [layers[name].axis for name in names]
    # A checkpoint of an earlier version may keep rows where columns meet.
    if groups != sizes or axes != ["out", "out", "out", "in"]:
        return None
    return Attention(
        scores=(query, key),
        writers=(value,),
        readers=(output,),
        heads=key_heads,
        score_step=0 if rotates(config) else step_of(score),
        value_step=step_of(width),
        score_rank=layers[key].rank,
        value_rank=layers[value].rank,
    )


def step_of(width: int) -> int:
    """Return how many dimensions of a head of some width go together: half of them where it is a small one."""
    return min(HEAD_STEP, max(1, width // 2))
