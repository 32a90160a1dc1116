"""Rows of tokens that a model is asked about: whole ones, of which the last tokens count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract.progress import Advance, unheard
from ..errors import RunError
from .likelihood import log_probabilities

Ints = NDArray[np.int64]

RUN_TOKENS = 2048
"""Tokens in one run by default, padding included: logits of 50,000 words are then 0.4 GB."""


class Scored(Protocol):
    """A language model that can be asked."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def positions(self) -> int:
        """Most tokens that it reads at once."""

    @property
    def end(self) -> int | None:
        """The token that ends a text; None where it has none."""

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a whole text, with those that the tokenizer puts around every text, or without."""

    def logits(self, ids: Ints, mask: Ints) -> NDArray[Any]:
        """Run the model once.

        Args:
            ids: of tokens, padded on the right; (batch, sequence).
            mask: 1 at tokens, 0 at padding; (batch, sequence).

        Returns:
            Logits of the token behind each; (batch, sequence, vocabulary). At padding they are not looked at.
        """


@dataclass(frozen=True)
class Row:
    """What a model reads, and what it is to predict of it.

    Attributes:
        tokens: ids, two or more.
        counted: how many of the last ones are predicted; below the number of tokens.
    """

    tokens: Sequence[int]
    counted: int


@dataclass(frozen=True)
class RowScore:
    """What a model says of a row.

    Attributes:
        log: sum of the logarithms of the probabilities of its counted tokens, in nats.
        first: how many of them no token is likelier than.
        counted: how many they are.
    """

    log: float
    first: int
    counted: int


def score_rows(
    model: Scored, rows: Sequence[Row], *, run_tokens: int = RUN_TOKENS, advance: Advance = unheard
) -> list[RowScore]:
    """Ask a model about rows, those of about one length together.

    Args:
        model: to ask.
        rows: none longer than its positions.
        run_tokens: most tokens of one run, padding included; a longer row runs alone.
        advance: told of every row.

    Returns:
        One a row, in order.

    Raises:
        RunError: the model failed, or a logit is NaN.
    """
    found: list[RowScore | None] = [None] * len(rows)
    for places in _runs(rows, run_tokens):
        for place, score in zip(places, _ask(model, [rows[place] for place in places]), strict=True):
            found[place] = score
        advance(len(places))
    return [score for score in found if score is not None]


def _runs(rows: Sequence[Row], run_tokens: int) -> Iterator[list[int]]:
    """Yield the places of rows that run together: the longest ones first, for what takes most memory to come first."""
    run: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: -len(rows[place].tokens)):
        if run and (len(run) + 1) * len(rows[run[0]].tokens) > run_tokens:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _ask(model: Scored, rows: Sequence[Row]) -> list[RowScore]:
    longest = max(len(row.tokens) for row in rows)
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row.tokens)] = row.tokens
        mask[place, : len(row.tokens)] = 1
    logits = model.logits(ids, mask)
    return [_score(model, row, ids[place], logits[place]) for place, row in enumerate(rows)]


def _score(model: Scored, row: Row, ids: Ints, logits: NDArray[Any]) -> RowScore:
    end = len(row.tokens)
    begin = end - row.counted
    logs, first = log_probabilities(logits[begin - 1 : end - 1], ids[begin:end])
    if np.isnan(logs).any():
        raise RunError(f"{model.name}: its logits have NaN; compare it with what it was made from (`losparse check`)")
    return RowScore(float(logs.sum()), int(first.sum()), row.counted)
