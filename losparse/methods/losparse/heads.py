"""What the structure `narrow` keeps of an attention: whole heads, and in all of them equally many dimensions.

    query, key              n live heads x dk dimensions, the same ones in both
    value, attention output the same n heads x dv dimensions

An exported graph then computes nothing but n heads of these widths. They are found by leaving out, step by step, what
matters least per parameter: a head, or a few query/key dimensions of every live head, or a few value dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Attention:
    """The four layers of one attention, which decide together what they keep.

    Attributes:
        scores: qualified names of query and key, which keep rows.
        writers: of the values, which keep rows.
        readers: of the attention's outputs, which keep columns.
        heads: their number.
        score_step: query/key dimensions of a head that go together.
        value_step: value dimensions of a head that go together.
    """

    scores: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    heads: int
    score_step: int
    value_step: int

    @property
    def layers(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.scores, *self.writers, *self.readers)

    def steps(self, scores: Mapping[str, Tensor], sizes: Mapping[str, int]) -> AttentionSteps:
        """Order what can be kept, the most important first."""
        return AttentionSteps(self, scores, sizes)


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
        prefix: steps are taken in this order alone.
    """

    def __init__(self, attention: Attention, scores: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        """Order the steps.

        Args:
            attention: whose.
            scores: importance of every group of a layer, by qualified name; (groups,).
            sizes: parameters that one group of a layer costs.
        """
        self.family = attention
        self._score = _Dimensions(attention.scores, attention.heads, scores, sizes)
        self._value = _Dimensions((*attention.writers, *attention.readers), attention.heads, scores, sizes)
        removals = _pooled(self._removals())
        self._left = [removal.left for removal in removals]
        self.scores = torch.tensor([removal.worth / removal.cost for removal in reversed(removals)])
        self.costs = torch.tensor([removal.cost for removal in reversed(removals)])

    def masks(self, steps: int) -> dict[str, Tensor]:
        """Return what the layers keep when the first steps are taken; bool (groups,) each."""
        removed = len(self._left) - steps
        kept = self._left[removed - 1] if removed else self._whole
        score, value = self._score.mask(kept.live, kept.score_width), self._value.mask(kept.live, kept.value_width)
        family = self.family
        return dict.fromkeys(family.scores, score) | dict.fromkeys((*family.writers, *family.readers), value)

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
            return score.worth((head,), 0, kept.score_width) + value.worth((head,), 0, kept.value_width)

        least = min(live, key=worth)  # the first of equals
        others = tuple(head for head in live if head != least)
        choices = [_Removal(worth(least), cost, _Kept(others, kept.score_width, kept.value_width))]
        below = _below(kept.score_width, self.family.score_step)
        if below:
            freed = len(live) * (kept.score_width - below) * score.unit
            choices.append(
                _Removal(score.worth(live, below, kept.score_width), freed, _Kept(live, below, kept.value_width))
            )
        below = _below(kept.value_width, self.family.value_step)
        if below:
            freed = len(live) * (kept.value_width - below) * value.unit
            choices.append(
                _Removal(value.worth(live, below, kept.value_width), freed, _Kept(live, kept.score_width, below))
            )
        return choices


def _below(width: int, step: int) -> int:
    """Return the next smaller width, a multiple of a step; 0 where there is none."""
    return (width - 1) // step * step


class _Dimensions:
    """The dimensions of all heads, the best of each first, of layers that keep the same ones."""

    def __init__(
        self, names: Sequence[str], heads: int, scores: Mapping[str, Tensor], sizes: Mapping[str, int]
    ) -> None:
        self.unit = sum(sizes[name] for name in names)
        total = torch.stack([scores[name].detach().double().cpu() * sizes[name] for name in names]).sum(0)
        each = total.reshape(heads, -1)
        self.width = int(each.shape[1])
        self._order = torch.argsort(each, dim=1, descending=True, stable=True)
        sums = each.gather(1, self._order).cumsum(1)
        self._sums: list[list[float]] = [[0.0, *row] for row in sums.tolist()]

    def worth(self, heads: Sequence[int], start: int, stop: int) -> float:
        """Sum the importance of the dimensions of rank start..stop of some heads."""
        return sum(self._sums[head][stop] - self._sums[head][start] for head in heads)

    def mask(self, heads: Sequence[int], width: int) -> Tensor:
        """Return the best dimensions of some heads; bool (heads * width,)."""
        chosen = torch.zeros_like(self._order, dtype=torch.bool)
        for head in heads:
            chosen[head, self._order[head, :width]] = True
        return chosen.flatten()


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
