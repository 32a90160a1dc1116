"""A text as it is written: an iterator over its pieces."""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import TracebackType
from typing import Self

from ..errors import InputError
from .loop import Generation, Row


class TextStream:
    """The pieces of one text, as soon as they are certain; together they are its text.

        with session.stream("Once upon a time") as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        stream.result.finish_reason

    A piece ends where a character ends: bytes of one that come with several tokens are held back until all are there,
    and so is what may be the beginning of a stop string. A stream that is closed, dropped, or at its end, holds no
    memory of the model's any more. One thread at a time asks for pieces; any may close it.

    Args:
        row: the text.
        steps: makes one token of it after the other.
    """

    def __init__(self, row: Row, steps: Generator[None, None, None]) -> None:
        self._row = row
        self._steps = steps
        self._lock = threading.Lock()  # held while a token is made

    def __iter__(self) -> Self:
        """The stream itself."""
        return self

    def __next__(self) -> str:
        """Return the next piece, which is not empty.

        Raises:
            StopIteration: the text has ended, or the stream was closed.
            RunError: the model failed, or its session was closed.
        """
        with self._lock:
            for _ in self._steps:
                piece = self._take()
                if piece:
                    return piece
        raise StopIteration

    def _take(self) -> str:
        return "" if self._row.text is None else self._row.text.take()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that were made so far."""
        return tuple(self._row.tokens)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, special ones included."""
        return len(self._row.prompt)

    @property
    def result(self) -> Generation:
        """What came of it, once the text has ended.

        Raises:
            InputError: it has not: there are pieces left, or it was closed before.
        """
        if self._row.reason is None:
            raise InputError("the stream has no result before its text has ended; read all pieces first")
        return self._row.result

    def close(self) -> None:
        """Stop, and let go of the memory; waits for a token that another thread is making."""
        with self._lock:
            self._steps.close()

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it."""
        self.close()
