"""Batches of prompts, continued token by token until every one has ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .decoders import Decoder
from .sampling import Chooser
from .text import Text

Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """How one prompt was continued.

    Attributes:
        text: what was added, without special tokens, the token or the text that ended it; prompt and text read as one.
            Empty where the folder has no tokenizer.
        tokens: ids of the new tokens, with the one that ended the text.
        finish_reason: "stop" where a token or a text ended it, "length" where it has as many tokens as it may.
        prompt_tokens: tokens of the prompt, special ones included.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: Reason
    prompt_tokens: int


@dataclass
class Row:
    """One prompt while it is continued.

    Attributes:
        prompt: its tokens.
        chooser: chooses the next ones.
        ends: tokens that end it.
        most: tokens that it may get.
        text: of its new tokens; None where the folder has no tokenizer.
        tokens: new ones.
        reason: why it has ended; None while it has not.
    """

    prompt: Sequence[int]
    chooser: Chooser
    ends: frozenset[int]
    most: int
    text: Text | None
    tokens: list[int] = field(default_factory=list)
    reason: Reason | None = None

    def take(self, logits: NDArray[np.float32]) -> None:
        """Choose the next token, and see whether it is the last one.

        Args:
            logits: (vocabulary,).
        """
        token = self.chooser.choose(logits)
        self.tokens.append(token)
        if token in self.ends or (self.text is not None and self.text.add(token)):
            self.reason = "stop"
        elif len(self.tokens) == self.most:
            self.reason = "length"
        if self.reason is not None and self.text is not None:
            self.text.end()

    @property
    def result(self) -> Generation:
        """What came of it, once it has ended."""
        assert self.reason is not None, "asked for once the row has ended"
        text = "" if self.text is None else self.text.whole
        return Generation(text, tuple(self.tokens), self.reason, len(self.prompt))


def continue_rows(rows: Sequence[Row], make: Callable[[int], Decoder]) -> Generator[None, None, None]:
    """Continue a batch; yield after every token.

    Rows that have ended leave the batch. Whatever happens, and also where nobody asks for the next token any more, the
    decoder's states are let go of.

    Args:
        rows: of which none has ended.
        make: makes a decoder whose rows get at most so many tokens.

    Raises:
        RunError: the model failed.
    """
    decoder = make(max(len(row.prompt) + row.most for row in rows))
    try:
        going = list(rows)
        for row in going:
            row.chooser.see(row.prompt)
        logits = decoder.start([row.prompt for row in going])
        while True:
            for row, each in zip(going, logits, strict=True):
                row.take(each)
            yield
            kept = staying([row.reason is None for row in going])
            if not kept:
                return
            if len(kept) < len(going):
                decoder.keep(kept)
                going = [going[place] for place in kept]
            logits = decoder.step(np.array([row.tokens[-1] for row in going], np.int64))
    finally:
        decoder.free()


def staying(stay: Sequence[bool]) -> list[int]:
    """Return the places of rows that stay, in an order in which the fewest change theirs.

    Args:
        stay: of every row, whether it does.
    """
    count = sum(stay)
    behind = [place for place in range(count, len(stay)) if stay[place]]
    return [place if stay[place] else behind.pop() for place in range(count)]
