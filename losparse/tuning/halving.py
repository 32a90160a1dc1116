"""Successive halving: all candidates are trained a little, the better half twice as long, until one is left.

References:
    Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, arXiv:1502.07943.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .candidates import Timed

Score = Callable[[Timed, float], float]
"""Trains a candidate for a share of the steps; returns its metric on the validation texts."""


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        share: of the steps that each was trained for.
        scores: metric of every candidate, in the order of the round.
        kept: those that went on, best first.
    """

    share: float
    scores: tuple[tuple[Timed, float], ...]
    kept: tuple[Timed, ...]


def halve(candidates: Sequence[Timed], score: Score, first_share: float) -> list[Round]:
    """Train candidates in rounds.

    Args:
        candidates: at least one.
        score: trains and measures one.
        first_share: of the steps, in the first round; it doubles from round to round, up to 1.

    Returns:
        The rounds; the first of the last one's `kept` is the best. A single candidate needs no training.
    """
    rounds: list[Round] = []
    left, share = list(candidates), first_share
    while len(left) > 1:
        scores = tuple((each, score(each, share)) for each in left)
        # Equal ones in their order: that which keeps more stands first.
        ranked = [each for each, _ in sorted(scores, key=lambda pair: -pair[1])]
        left = ranked[: math.ceil(len(ranked) / 2)]
        rounds.append(Round(share, scores, tuple(left)))
        share = min(1.0, 2 * share)
    return rounds
