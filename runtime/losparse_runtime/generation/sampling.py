"""The choice of the next token: logits are changed and thinned out as transformers does it, and one is drawn.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p. Functions take the logits of
one text, (vocabulary,), and return them with -inf for tokens that are out. They count in double precision.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .settings import GenerationSettings

Logits = NDArray[np.float64]


class Chooser:
    """Chooses the tokens of one text.

    Args:
        settings: how.
        place: of the text among those of its call. Texts of one seed differ by it, and by nothing else: what is drawn
            for a text does not depend on how long the others are, or how many run together.
    """

    def __init__(self, settings: GenerationSettings, place: int = 0) -> None:
        self._settings = settings
        self._random = np.random.default_rng(None if settings.seed is None else (settings.seed, place))
        self._seen: set[int] = set()

    def see(self, tokens: Iterable[int]) -> None:
        """Take note of tokens that the text has, for the repetition penalty."""
        if self._settings.repetition_penalty != 1:
            self._seen.update(tokens)

    def choose(self, logits: NDArray[np.floating]) -> int:
        """Choose a token, and take note of it.

        Args:
            logits: of the tokens that may be next, (vocabulary,); not changed. None of them is NaN.
        """
        scores = penalise(logits, self._seen, self._settings.repetition_penalty) if self._seen else logits
        token = self._draw(np.asarray(scores, np.float64)) if self._settings.samples else int(scores.argmax())
        self.see((token,))
        return token

    def _draw(self, logits: Logits) -> int:
        shares = probabilities(thin_out(logits, self._settings))
        sums = shares.cumsum()  # the last one may be a rounding away from 1
        return int(np.searchsorted(sums[:-1], self._random.random() * sums[-1], side="right"))


def penalise(logits: NDArray[np.floating], seen: Iterable[int], penalty: float) -> NDArray[np.floating]:
    """Make tokens that a text has less likely, or more likely below 1.

    Args:
        logits: (vocabulary,).
        seen: ids of the tokens that it has; those outside the vocabulary are left out.
        penalty: > 0.
    """
    ids = np.fromiter((each for each in seen if each < len(logits)), np.int64)
    changed = logits.copy()
    found = logits[ids]
    changed[ids] = np.where(found < 0, found * penalty, found / penalty)
    return changed


def thin_out(logits: Logits, settings: GenerationSettings) -> Logits:
    """Divide by the temperature, which is above 0, and leave out what top_k, top_p and min_p leave out."""
    if settings.temperature != 1:
        logits = logits / settings.temperature
    if settings.top_k:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    if settings.min_p > 0:
        logits = keep_min_p(logits, settings.min_p)
    return logits


def keep_top_k(logits: Logits, count: int) -> Logits:
    """Keep the `count` most likely tokens, and those that are as likely as the last one of them."""
    if count >= len(logits):
        return logits
    least = np.partition(logits, -count)[-count]
    return _where(logits >= least, logits)


def keep_top_p(logits: Logits, share: float) -> Logits:
    """Keep the fewest most likely tokens whose probabilities sum to more than `share`, one at least.

    Tokens that are as likely as the last one of them stay too; transformers keeps any of them.
    """
    ascending = np.sort(logits[np.isfinite(logits)])
    kept = probabilities(ascending).cumsum() > 1 - share
    kept[-1] = True
    return _where(logits >= ascending[int(kept.argmax())], logits)


def keep_min_p(logits: Logits, share: float) -> Logits:
    """Keep tokens whose probability is at least `share` of the largest one."""
    shares = probabilities(logits)
    return _where(shares >= share * shares.max(), logits)


def probabilities(logits: Logits) -> Logits:
    """Return the softmax; no unit, 0 at -inf."""
    raised = np.exp(logits - logits.max())
    return np.asarray(raised / raised.sum())


def _where(kept: NDArray[np.bool_], logits: Logits) -> Logits:
    return np.where(kept, logits, -np.inf)
