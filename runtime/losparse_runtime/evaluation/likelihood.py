"""Log-probabilities of tokens, from logits of any engine: the one definition of a language model's loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logs = NDArray[np.float64]
Flags = NDArray[np.bool_]

_MOST_LOSS = 709.0
"""Nats; exp of 710 is no float, and JSON has no infinity."""
_PART = 64
"""Rows of logits at a time: what is computed of them stays near the processor."""


def log_probabilities(logits: NDArray[Any], tokens: NDArray[Any]) -> tuple[Logs, Flags]:
    """Return how likely tokens are, and whether each is the likeliest of all.

    Differences from the largest logit are exponentiated in float32, and added in float64: what is lost is below 1e-6
    nats, whatever the size of the vocabulary.

    Args:
        logits: of the place before every token; (tokens, vocabulary).
        tokens: ids; (tokens,).

    Returns:
        Logarithms of probabilities in nats, NaN where a logit is; and whether no token is likelier. Both (tokens,).
    """
    logs, first = np.empty(len(tokens), np.float64), np.empty(len(tokens), np.bool_)
    for begin in range(0, len(tokens), _PART):
        part = slice(begin, begin + _PART)
        rows = np.asarray(logits[part], np.float32)
        chosen = rows[np.arange(len(rows)), tokens[part]]
        largest = rows.max(axis=1)
        weights = np.exp(rows - largest[:, None]).sum(axis=1, dtype=np.float64)
        logs[part] = chosen.astype(np.float64) - largest - np.log(weights)
        first[part] = chosen >= largest
    return logs, first


def perplexity(loss: float) -> float:
    """Return the perplexity of a mean loss in nats per token; beyond the range of a float it is the largest one."""
    return math.exp(min(loss, _MOST_LOSS))
