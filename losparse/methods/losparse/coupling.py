"""Which layers decide together what they keep: the structure that folds away in an exported graph.

    query, key                  the same dimensions of every head: a permutation inside a head then suits both
    value, attention output     the same dimensions of every head, as rows of one and columns of the other
    up (and gate), down         the same inner neurons, as rows of the first and columns of the second

Every head keeps equally many dimensions, and counts are a multiple of some number. Kept neurons can then be put first
on both sides of a product, and what was a scatter becomes nothing at all. A layer without a known partner decides
alone. Layers are recognised by their names (`models.roles`) and sizes; the exporter does not rely on this, it reads the
graph.

Where several query heads share one key head (grouped attention), `couple` leaves the attention alone: the exporter does
not fold what an Attention repeats, and without that it gains nothing - value and output of 8 heads on 2 get the same
forms whether they keep the same dimensions or not, and queries and keys are rotated in all these models, which blocks
their fold anyway. `narrow` lets key heads go with all query heads that read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ...models.heads import lists_heads, numbers_of_heads
from ...models.roles import Partners
from ...models.roles import partners as partners_of
from .attentions import find_attentions
from .heads import Attention
from .layer import FactoredLinearTraining

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Family:
    """Layers that keep the same groups.

    Attributes:
        layers: qualified names.
        blocks: parts of the groups that keep equally many each: heads, or 1.
        multiple: kept groups, all blocks together, are a multiple of this, but for the last ones.
    """

    layers: tuple[str, ...]
    blocks: int = 1
    multiple: int = 1

    def steps(
        self, scores: Mapping[str, Tensor], sizes: Mapping[str, int], beside: Mapping[str, Tensor] | None = None
    ) -> Steps:
        """Order what can be kept, the most important first; nothing of the rank part goes with a group."""
        return _GroupSteps(self, scores, sizes)


class Steps(Protocol):
    """What layers that decide together may keep, in the order in which they take it.

    Attributes:
        scores: mean importance of a parameter of each step; (steps,).
        costs: parameters of each step; int64 (steps,).
    """

    scores: Tensor
    costs: Tensor

    def masks(self, steps: int) -> dict[str, Tensor]:
        """Return what the layers keep when the first steps are taken; bool (groups,) each."""


AnyFamily = Family | Attention


def separate(layers: Mapping[str, FactoredLinearTraining]) -> list[Family]:
    """Let every layer decide alone, group by group: the paper."""
    return [Family((name,)) for name in layers]


def couple(
    layers: Mapping[str, FactoredLinearTraining], config: PretrainedConfig | None, *, multiple: int
) -> list[Family]:
    """Couple the layers of attention and feed-forward parts.

    Args:
        layers: in training form, by qualified name.
        config: of the transformers model, for its numbers of heads; None couples no heads.
        multiple: of the kept counts.

    Returns:
        Families that hold every layer once, in the order of their first layers.
    """
    families = []
    for partners in partners_of(layers):
        by_heads = partners.kind in ("scores", "values")
        heads, key_heads = numbers_of_heads(partners.layers[0], config) if by_heads else (1, 1)
        known = key_heads == heads and not (by_heads and lists_heads(config))
        blocks = heads if known else 1
        if known and _agree(partners, layers, blocks):
            families.append(Family(partners.layers, blocks, multiple))
        else:  # sizes that do not match, or several query heads for one key: every layer for itself
            families += [Family((name,), 1, multiple) for name in partners.layers]
    order = {name: place for place, name in enumerate(layers)}
    return sorted(families, key=lambda family: order[family.layers[0]])


def narrow(
    layers: Mapping[str, FactoredLinearTraining], config: PretrainedConfig | None, *, multiple: int
) -> list[AnyFamily]:
    """Couple the four layers of an attention, so that heads can go whole, and the others as `couple` does.

    Args:
        layers: in training form, by qualified name.
        config: of the transformers model, for its numbers of heads; None couples no heads.
        multiple: of the kept feed-forward neurons.

    Returns:
        Families that hold every layer once, in the order of their first layers.
    """
    attentions = find_attentions(layers, config)
    taken = {name for attention in attentions for name in attention.layers}
    others = {name: layer for name, layer in layers.items() if name not in taken}
    found: list[AnyFamily] = [*attentions, *couple(others, config, multiple=multiple)]
    order = {name: place for place, name in enumerate(layers)}
    return sorted(found, key=lambda family: min(order[name] for name in family.layers))


def _agree(partners: Partners, layers: Mapping[str, FactoredLinearTraining], blocks: int) -> bool:
    """Tell whether layers can keep the same groups: as many of them, and at the side where they meet."""
    counts = {len(layers[name].mask) for name in partners.layers}
    if len(counts) > 1 or counts.pop() % blocks:
        return False
    # A checkpoint of an earlier version may keep rows where columns meet.
    sides = [("out", name) for name in partners.writers] + [("in", name) for name in partners.readers]
    return len(partners.layers) == 1 or all(layers[name].axis == axis for axis, name in sides)


def choose_groups(
    families: Sequence[AnyFamily],
    scores: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    budget: int,
    beside: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Choose what to keep: the families' best groups over the whole model that fit into the budget.

    Groups of a family are ranked inside every block; the best of all blocks go together, then the second best, in
    steps of as many as make a multiple. A step's score is the mean over all its parameters, so that it competes with
    the steps of other families on equal terms.

    Args:
        families: that hold every layer once.
        scores: importance of every group of a layer, by qualified name; (groups,).
        sizes: parameters that one group of a layer costs.
        budget: parameters to spend, in all.
        beside: importance of what the rank part adds to a group, summed over its parameters, of the layers where that
            goes with a head; (groups,).

    Returns:
        One bool mask per layer; (groups,) each.

    References:
        LoSparse, arXiv:2306.11222, Algorithm 1, with families in place of single neurons.
    """
    steps = [family.steps(scores, sizes, beside) for family in families]
    if any(isinstance(family, Attention) for family in families):
        counts = select_steps([step.scores for step in steps], [step.costs for step in steps], budget)
    else:
        taken = select_groups([step.scores for step in steps], [step.costs for step in steps], budget)
        counts = [int(chosen.sum()) for chosen in taken]
    masks: dict[str, Tensor] = {}
    for step, count in zip(steps, counts, strict=True):
        masks |= step.masks(count)
    return {name: masks[name].to(scores[name].device) for name in scores}


def live_groups(families: Sequence[AnyFamily], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which groups belong to a head that keeps something, of the layers whose heads go whole.

    Args:
        families: that the masks were chosen for.
        masks: by qualified name; bool (groups,).

    Returns:
        One bool mask per layer of an attention; (groups,) each.
    """
    found: dict[str, Tensor] = {}
    for family in families:
        if isinstance(family, Attention):
            found |= {name: family.live(masks[name]) for name in family.layers}
    return found


class _GroupSteps:
    """The groups of one family in the order in which they are taken, in steps."""

    def __init__(self, family: Family, scores: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        self.family = family
        self.unit = sum(sizes[name] for name in family.layers)
        total = sum(scores[name].detach().double().cpu() * sizes[name] for name in family.layers)
        assert isinstance(total, Tensor), "a family has a layer"
        blocks = (total / self.unit).reshape(family.blocks, -1)  # (blocks, width)
        self.order = torch.argsort(blocks, dim=1, descending=True, stable=True)
        self.width = family.multiple // math.gcd(family.multiple, family.blocks)  # groups of one block in a step
        levels = blocks.gather(1, self.order).mean(0)  # the j-th best of every block; (width,)
        parts = torch.split(levels, self.width)
        self.scores = torch.stack([part.mean() for part in parts])
        self.costs = torch.tensor([len(part) * family.blocks * self.unit for part in parts])

    def masks(self, steps: int) -> dict[str, Tensor]:
        chosen = torch.zeros_like(self.order, dtype=torch.bool)
        chosen.scatter_(1, self.order[:, : steps * self.width], True)
        return dict.fromkeys(self.family.layers, chosen.flatten())


def select_steps(scores: Sequence[Tensor], costs: Sequence[Tensor], budget: int) -> list[int]:
    """Choose the steps with the highest scores over all families that fit into the budget.

    Steps of one family are taken in their order. One that no longer fits ends its family, and smaller steps of others
    still use what is left: a head costs many times what a few neurons do.

    Args:
        scores: one score per step of each family; (steps,) each.
        costs: parameters that each step costs; (steps,) each.
        budget: parameters to spend, in all.

    Returns:
        How many steps each family takes.
    """
    flat = torch.cat([score.detach().double().cpu() for score in scores])
    prices = torch.cat([cost.cpu() for cost in costs]).tolist()
    owners = [place for place, score in enumerate(scores) for _ in range(len(score))]
    taken, closed, left = [0] * len(scores), [False] * len(scores), budget
    for place in torch.argsort(flat, descending=True, stable=True).tolist():
        owner = owners[place]
        if closed[owner] or prices[place] > left:
            closed[owner] = True
            continue
        left -= prices[place]
        taken[owner] += 1
    return taken


def select_groups(scores: Sequence[Tensor], group_sizes: Sequence[int | Tensor], budget: int) -> list[Tensor]:
    """Choose the groups with the highest scores over all layers whose parameters fit into the budget.

    The order is by score, then by layer, then by index, so equal scores (all zero, say) are decided the same way
    everywhere; groups are taken until the first that no longer fits. The budget is never exceeded.

    Args:
        scores: one score per group of each layer; (groups,) each.
        group_sizes: parameters that one group of each layer costs, or that each of its groups costs; (groups,).
        budget: parameters to spend, in all.

    Returns:
        One bool mask per layer; (groups,) each.

    References:
        LoSparse, arXiv:2306.11222, Algorithm 1: one global threshold over all neurons, weighted by element count.
    """
    flat = torch.cat([score.detach().float().cpu() for score in scores])
    sizes = torch.cat([torch.as_tensor(size).expand(len(s)) for s, size in zip(scores, group_sizes, strict=True)])
    order = torch.argsort(flat, descending=True, stable=True)
    fits = torch.cumsum(sizes[order], 0) <= budget
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[order[fits]] = True
    parts = torch.split(chosen, [len(score) for score in scores])
    return [part.to(score.device) for part, score in zip(parts, scores, strict=True)]
