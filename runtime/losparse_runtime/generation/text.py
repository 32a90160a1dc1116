"""The text that tokens make, as it becomes known: whole characters only, and nothing that may be of a stop string."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ..contract.files import TOKENIZER_FILE
from ..errors import RunError, one_line
from ..text.encoder import TextEncoder
from ..text.panics import panics_caught

_BROKEN = "\ufffd"
"""What a decoder has for bytes that are no character: those of one whose other bytes are in the next token, for one."""

_BEFORE = 6
"""Tokens of the prompt that are decoded with the first ones: some decoders leave out a space at the beginning."""


Decode = Callable[[Sequence[int]], str]
"""Makes a text of tokens, special ones left out."""


def decoding(encoder: TextEncoder) -> Decode | None:
    """Return what makes texts of tokens; None where the folder has no tokenizer.

    Raises:
        TokenizerError: it has one that is damaged.
        DependencyError: tokenizers is not installed.
    """
    if not (encoder.folder / TOKENIZER_FILE).is_file():
        return None
    tokenizer = encoder.tokenizer

    def decode(tokens: Sequence[int]) -> str:
        try:
            with panics_caught():
                text: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
        except Exception as error:  # the Rust side raises plain Exception
            raise RunError(f"{encoder.folder}: the tokenizer makes no text of tokens: {one_line(error)}") from error
        return text

    return decode


class Text:
    """The text of one row's new tokens.

    Every token is decoded together with some before it, since what one is in a text depends on its neighbours: bytes of
    a character, a space between words. `prompt + text` reads as the tokens of both do.

    Args:
        decode: see above.
        prompt: the tokens before.
        stops: texts that end the text, and are no part of it.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stops)
        self._window = list(prompt[-_BEFORE:])
        self._known = len(self._window)  # tokens of the window whose text is settled
        self._settled = ""
        self._open = ""  # of tokens that end inside a character
        self._taken = 0
        self._over = False

    @property
    def whole(self) -> str:
        """All of it so far."""
        return self._settled + self._open

    def add(self, token: int) -> bool:
        """Add a token; tell whether its text completes a stop string, which ends the text before it."""
        self._window.append(token)
        before, text = self._decode(self._window[: self._known]), self._decode(self._window)
        self._open = text[_common(before, text) :]
        searched = len(self._settled)
        if self._open and not text.endswith(_BROKEN):
            self._settled, self._open = self.whole, ""
            self._window = self._window[self._known :]
            self._known = len(self._window)
        return self._stopped(searched)

    def end(self) -> None:
        """Nothing follows: what was held back belongs to the text."""
        self._over = True

    def take(self) -> str:
        """Return what became certain since the last call."""
        end = len(self.whole) if self._over else self._certain()
        piece = self.whole[self._taken : end]
        self._taken = max(self._taken, end)
        return piece

    def _stopped(self, searched: int) -> bool:
        """Look for stop strings that end behind so many characters."""
        whole = self.whole
        places = [whole.find(stop, max(0, searched - len(stop) + 1)) for stop in self._stops]
        found = [place for place in places if place >= 0]
        if found:
            self._settled, self._open, self._over = whole[: min(found)], "", True
        return bool(found)

    def _certain(self) -> int:
        """Return how many characters nothing that follows can change or cut off."""
        text = self._settled + self._open.rstrip(_BROKEN)
        longest = max(map(len, self._stops), default=1)
        for size in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return len(text) - size
        return len(text)


def _common(first: str, second: str) -> int:
    """Return how many characters two texts begin with alike."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in same)
