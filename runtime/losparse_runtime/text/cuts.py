"""How many texts were cut: a line for every call, or one for all calls of a block."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass
class _Cuts:
    """Texts of a block: how many were cut and how many there were, by the tokens that are kept."""

    cut: Counter[int] = field(default_factory=Counter)
    texts: Counter[int] = field(default_factory=Counter)

    def add(self, cut: int, texts: int, length: int) -> None:
        self.cut[length] += cut
        self.texts[length] += texts

    def tell(self) -> None:
        for length, texts in self.texts.items():
            cut = self.cut[length]
            if cut:
                counts = f"{cut:,} of {texts:,}"
                logger.warning("%s texts are longer than %d tokens and were cut", counts, length)


# Of the thread, or task, that the block runs in: others may use the same encoder meanwhile.
_block: ContextVar[_Cuts | None] = ContextVar("losparse_cuts", default=None)


def count_cuts(cut: int, texts: int, length: int) -> None:
    """Log that texts of a call were cut; inside of `cuts_told_once` add them to what its end tells.

    Args:
        cut: texts that were cut.
        texts: all texts of the call.
        length: tokens kept of a text.
    """
    block = _block.get()
    cuts = _Cuts() if block is None else block
    cuts.add(cut, texts, length)
    if block is None:
        cuts.tell()


@contextmanager
def cuts_told_once(*, silent: bool = False) -> Iterator[None]:
    """Log how many texts were cut in all calls of the block in one line at its end, in place of one for each call.

    Not for a generator that yields inside: its caller would be inside of the block too. A block inside of another
    tells its own texts alone. A block that fails tells nothing: the error is what its reader has to see.

    Args:
        silent: tell nothing.
    """
    cuts = _Cuts()
    before = _block.set(cuts)
    try:
        yield
    finally:
        _block.reset(before)
    if not silent:
        cuts.tell()
