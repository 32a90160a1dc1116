"""What the structure `narrow` keeps of an attention: whole heads, and in all of them equally many dimensions.

    query, key              n live heads x dk dimensions, the same ones in both
    value, attention output the same n heads x dv dimensions

An exported graph then computes nothing but n heads of these widths. They are found by leaving out, step by step, what
matters least per parameter: a head, or a few query/key dimensions of every live head, or a few value dimensions.

Several query heads may read one key head (grouped attention): what is called a head here is a key head with all of
them. Where layers have a low-rank part, that of a head goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...layers.spec import LayerSpec
from ...models.heads import Heads, said


@dataclass(frozen=True)
class Attention:
    """The four layers of one attention, which decide together what they keep.

    Attributes:
        scores: qualified names of query and key, which keep rows.
        writers: of the values, which keep rows.
        readers: of the attention's outputs, which keep columns.
        heads: number of key heads.
        score_step: query/key dimensions of a head that go together; 0 where a head keeps all of them.
        value_step: value dimensions of a head that go together; 0 where a head keeps all of them.
        score_rank: of the keys' low-rank part, which an exported head is wider by than what is kept.
        value_rank: of the values' low-rank part, as `score_rank`.
    """

    scores: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    heads: int
    score_step: int
    value_step: int
    score_rank: int = 0
    value_rank: int = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.scores, *self.writers, *self.readers)

    def steps(
        self, scores: Mapping[str, Tensor], sizes: Mapping[str, int], beside: Mapping[str, Tensor] | None = None
    ) -> AttentionSteps:
        """Order what can be kept, the most important first."""
        return AttentionSteps(self, scores, sizes, beside)

    def said(self, masks: Mapping[str, Tensor]) -> str:
        """Say in words what the layers keep, as a report of the compact model does."""
        query, key = masks[self.scores[0]], masks[self.scores[-1]]
        heads = Heads(int(key.reshape(self.heads, -1).any(1).sum()), self.heads)
        shared, widths = len(query) // len(key), []
        for name, rank in ((self.scores[-1], self.score_rank), (self.writers[0], self.value_rank)):
            mask = masks[name]
            spec = LayerSpec(len(mask), len(mask), rank=rank, kept=int(mask.sum()))
            widths.append(heads.width(spec))
        return said(Heads(heads.live * shared, heads.of * shared), *widths)

    def live(self, mask: Tensor) -> Tensor:
        """Return which groups of a layer belong to a head that keeps some; bool (groups,), as the mask."""
        heads = mask.reshape(self.heads, -1)
        return heads.any(dim=1, keepdim=True).expand_as(heads).flatten()


@dataclass(frozen=True)
class _Kept:
    """What is kept of an attention: live heads, and how many of the best dimensions of each."""

    live: tuple[int, ...]
    score_width: int
    value_width: int


@dataclass(frozen=True)
class _Removal:
    """One thing left out.

    Attributes:
        worth: importance lost, summed over parameters.
        cost: parameters that it frees.
        left: what is kept behind it.
    """

    worth: float
    cost: int
    left: _Kept


class AttentionSteps:
    """The steps in which an attention is kept, best first.

    Attributes:
        scores: mean importance of a parameter of each step, never rising; (steps,).
        costs: parameters of each step; int64 (steps,).
    """

    def __init__(
        self,
        attention: Attention,
        scores: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Order the steps.

        Args:
            attention: whose.
            scores: importance of every group of a layer, by qualified name; (groups,).
            sizes: parameters that one group of a layer costs.
            beside: importance of what the rank part adds to a group, summed over its parameters, of layers that have
                one; (groups,). It is lost with the head, and frees nothing.
        """
        self.family = attention
        self._score = _Dimensions(attention.scores, attention.heads, scores, sizes)
        self._value = _Dimensions((*attention.writers, *attention.readers), attention.heads, scores, sizes)
        parts = [(beside or {})[name] for name in attention.layers if name in (beside or {})]
        by_head = [part.detach().double().cpu().reshape(attention.heads, -1).sum(1) for part in parts]
        self._beside: list[float] = sum(by_head, torch.zeros(attention.heads, dtype=torch.float64)).tolist()
        removals = _pooled(self._removals())
        self._left = [removal.left for removal in removals]
        self.scores = torch.tensor([removal.worth / removal.cost for removal in reversed(removals)])
        self.costs = torch.tensor([removal.cost for removal in reversed(removals)])

    def masks(self, steps: int) -> dict[str, Tensor]:
        """Return what the layers keep when the first steps are taken; bool (groups,) each."""
        removed = len(self._left) - steps
        kept = self._left[removed - 1] if removed else self._whole
        score, value = self._score, self._value
        return score.masks(kept.live, kept.score_width) | value.masks(kept.live, kept.value_width)

    @property
    def _whole(self) -> _Kept:
        return _Kept(tuple(range(self.family.heads)), self._score.width, self._value.width)

    def _removals(self) -> list[_Removal]:
        """Leave out what matters least per parameter until nothing is left."""
        kept, removals = self._whole, []
        while kept.live:
            best = min(self._choices(kept), key=lambda removal: removal.worth / removal.cost)
            removals.append(best)
            kept = best.left
        return removals

    def _choices(self, kept: _Kept) -> list[_Removal]:
        score, value, live = self._score, self._value, kept.live
        cost = kept.score_width * score.unit + kept.value_width * value.unit

        def worth(head: int) -> float:
            kept_of_it = score.worth((head,), 0, kept.score_width) + value.worth((head,), 0, kept.value_width)
            return kept_of_it + self._beside[head]

        least = min(live, key=worth)  # the first of equals
        others = tuple(head for head in live if head != least)
        choices = [_Removal(worth(least), cost, _Kept(others, kept.score_width, kept.value_width))]
        below = _below(kept.score_width, score.width, self.family.score_step, self.family.score_rank)
        if below:
            freed = len(live) * (kept.score_width - below) * score.unit
            choices.append(
                _Removal(score.worth(live, below, kept.score_width), freed, _Kept(live, below, kept.value_width))
            )
        below = _below(kept.value_width, value.width, self.family.value_step, self.family.value_rank)
        if below:
            freed = len(live) * (kept.value_width - below) * value.unit
            choices.append(
                _Removal(value.worth(live, below, kept.value_width), freed, _Kept(live, kept.score_width, below))
            )
        return choices


def _below(kept: int, whole: int, step: int, rank: int) -> int:
    """Return the next smaller number of kept dimensions of a head; 0 where there is none.

    An exported head has the kept dimensions and as many as the rank, unless that is more than it had: that sum is a
    multiple of the step.
    """
    return max(0, min(kept + rank - 1, whole) // step * step - rank) if step else 0


class _Dimensions:
    """The dimensions of all heads, the best of each first, of layers that keep the same ones.

    A layer may have several heads for each of the others' (queries, where they share keys): all keep the same places.
    """

    def __init__(
        self, names: Sequence[str], heads: int, scores: Mapping[str, Tensor], sizes: Mapping[str, int]
    ) -> None:
        self.width = min(len(scores[name]) for name in names) // heads
        self._repeats = {name: len(scores[name]) // (heads * self.width) for name in names}
        self.unit = sum(sizes[name] * repeat for name, repeat in self._repeats.items())
        costs = [scores[name].detach().double().cpu() * sizes[name] for name in names]
        each = torch.stack([cost.reshape(heads, -1, self.width).sum(1) for cost in costs]).sum(0)
        self._order = torch.argsort(each, dim=1, descending=True, stable=True)
        sums = each.gather(1, self._order).cumsum(1)
        self._sums: list[list[float]] = [[0.0, *row] for row in sums.tolist()]

    def worth(self, heads: Sequence[int], start: int, stop: int) -> float:
        """Sum the importance of the dimensions of rank start..stop of some heads."""
        return sum(self._sums[head][stop] - self._sums[head][start] for head in heads)

    def masks(self, heads: Sequence[int], width: int) -> dict[str, Tensor]:
        """Return the best dimensions of some heads, of every layer; bool (groups,) each."""
        chosen = torch.zeros_like(self._order, dtype=torch.bool)
        for head in heads:
            chosen[head, self._order[head, :width]] = True
        return {name: chosen[:, None, :].expand(-1, repeat, -1).flatten() for name, repeat in self._repeats.items()}


def _pooled(removals: Sequence[_Removal]) -> list[_Removal]:
    """Join removals so that each costs no less importance per parameter than the one before it.

    What follows cheaply on a dear removal is then left out together with it, or not at all.
    """
    pooled: list[_Removal] = []
    for removal in removals:
        current = removal
        while pooled and current.worth * pooled[-1].cost < pooled[-1].worth * current.cost:
            last = pooled.pop()
            current = _Removal(last.worth + current.worth, last.cost + current.cost, current.left)
        pooled.append(current)
    return pooled
