"""Panics of the tokenizers package: Rust reports them as a BaseException, and prints a report of its own on stderr.

They come of a regular expression in `tokenizer.json` that needs too long for a text, or of a rule that points outside
the vocabulary: faults of a folder or a text, which a server must outlive.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO

from ..errors import one_line

HOLD_SWITCH = "LOSPARSE_HOLD_PANICS"
"""Environment variable: "1" keeps Rust's own report off stderr. Set by the command line, whose stderr is its own."""

_HOLDING = threading.Lock()


class PanicError(Exception):
    """Code in Rust panicked; the message is its own, on one line."""


def is_panic(error: BaseException) -> bool:
    """Tell whether Rust raised it, by its name: the class is made at the first panic, and nothing exports it."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics_caught() -> Iterator[None]:
    """Raise a panic inside the block as a `PanicError`, which `except Exception` catches.

    Raises:
        PanicError: see above.
    """
    with _held_stderr() if os.environ.get(HOLD_SWITCH) == "1" else nullcontext():
        try:
            yield
        except BaseException as error:
            if not is_panic(error):
                raise
            raise PanicError(one_line(error)) from error


@contextmanager
def _held_stderr() -> Iterator[None]:
    """Collect what is written to file descriptor 2, and pass it on at the end but for a panic's report.

    One thread at a time: of two, the one that ends last would leave the other's file in the place of stderr. Nothing is
    collected either where no temporary file can be made, as on a read-only disk.
    """
    if not _HOLDING.acquire(blocking=False):
        yield
        return
    try:
        try:
            held = tempfile.TemporaryFile()  # noqa: SIM115 - the next block closes it
        except OSError:
            yield
            return
        with _in_the_place_of_stderr(held):
            yield
    finally:
        _HOLDING.release()


@contextmanager
def _in_the_place_of_stderr(file: IO[bytes]) -> Iterator[None]:
    sys.stderr.flush()
    real = os.dup(2)
    with file as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            os.write(2, _without_panic(held.read()))


def _without_panic(text: bytes) -> bytes:
    """Return what was written before a panic's report, which runs to the end."""
    before, _, report = text.partition(b"\nthread '")
    return before if b"panicked at" in report else text
