"""How far a long call is, on one line of stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ..contract.progress import Advance, unheard


@contextmanager
def progress_bar(shown: bool | None, total: int, stream: TextIO | None = None) -> Iterator[Advance]:
    """Show how many of `total` texts are done while the block runs, if `shown`; yields what is told of more.

    Args:
        shown: whether to show anything.
        total: texts to do.
        stream: where to; stderr by default.
    """
    if not shown:
        yield unheard
        return
    sink, reached = sys.stderr if stream is None else stream, 0

    def advance(done: int, /, *, total: int | None = total, title: str | None = None, note: str | None = None) -> None:
        nonlocal reached
        reached += done
        print(f"\rtexts: {reached}/{total}", end="", file=sink, flush=True)

    advance(0)
    try:
        yield advance
    finally:
        print(file=sink, flush=True)
