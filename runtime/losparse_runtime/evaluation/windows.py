"""A long row of tokens as windows that a model can read, each token predicted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InputError

WINDOW = 512
"""Tokens that are read at once where nothing else is said, or all positions of a model that has fewer: in windows, in
blocks that a model is trained on, and in those that a method is calibrated on."""


@dataclass(frozen=True)
class Window:
    """A part of a row.

    Attributes:
        begin: its first token.
        end: the one behind its last token.
        counted: how many of its last tokens are predicted in it, and in no other.
    """

    begin: int
    end: int
    counted: int


def windows(tokens: int, window: int, stride: int) -> list[Window]:
    """Cut a row into windows.

    A window begins `stride` tokens behind the one before it, and predicts what that has not read: every token is
    predicted once, those of all windows but the first with `window - stride` tokens before them or more. Where the
    two are equal, the first token of a window has nothing before it there and is not predicted, as in the perplexities
    that GPTQ and most papers report; the first token of all never is.

    Args:
        tokens: of the row.
        window: most tokens that are read at once.
        stride: tokens between the beginnings of two windows.

    Raises:
        InputError: a number is out of its range, or the row has fewer than two tokens.
    """
    if window < 2:
        raise InputError(f"window must be 2 tokens or more, so that one can be predicted, got {window}")
    if not 1 <= stride <= window:
        raise InputError(f"stride must be in 1..{window}, the tokens of a window, got {stride}")
    if tokens < 2:
        raise InputError(f"texts must have 2 tokens or more together, so that one can be predicted, got {tokens}")
    return [each for each in _cut(tokens, window, stride) if each.counted > 0]


def _cut(tokens: int, window: int, stride: int) -> Iterator[Window]:
    read = 0
    for begin in range(0, tokens, stride):
        end = min(begin + window, tokens)
        yield Window(begin, end, min(end - read, end - begin - 1))
        read = end
        if end == tokens:
            return
