"""The numbers of a folder and of its reference, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..compare import Comparison, Parity
from ..contract.feeds import Draw
from ..contract.progress import Advance
from ..contract.tensors import Arrays
from ..session import Session
from .preprocessing import Preprocessing

SHAPES = ((1, 2), (1, 7), (2, 7), (3, 24), (2, 128), (8, 64))
"""Texts in a batch, tokens in a text, for random token ids; from two texts on, half of them are padded."""

TEXT_BATCH = 32
"""Texts in a batch of texts."""


def _unexplained(batch: Arrays, tolerance: float) -> str | None:
    return None


Explain = Callable[[Arrays, float], str | None]
"""Names the first layer that differs on a batch by more than a tolerance; see `Reference`."""


@dataclass(frozen=True)
class Reference:
    """What a folder is compared with.

    Attributes:
        kind: what does its arithmetic, as in "PyTorch".
        run: outputs of one batch.
        preprocessing: what it does with texts.
        precision: of its numbers, as `Variant.arithmetic` says it.
        explain: names the first layer that differs on a batch by more than a tolerance for outputs of magnitude 1;
            None where that cannot be found out.
        explain_for: returns what does that for another session of the same folder; None where nothing does.
    """

    kind: str
    run: Callable[[Arrays], Arrays]
    preprocessing: Preprocessing
    precision: str = "fp32"
    explain: Explain = _unexplained
    explain_for: Callable[[Session], Explain] | None = None

    def of(self, session: Session) -> Reference:
        """Return the reference as it explains another session of the same folder."""
        return self if self.explain_for is None else replace(self, explain=self.explain_for(session))


@dataclass(frozen=True)
class Measured:
    """Differences over some batches.

    Attributes:
        parity: the differences.
        worst: the batch that holds the largest.
        scale: the reference's largest output that is read and finite, by magnitude.
    """

    parity: Parity
    worst: Arrays
    scale: float


def measure_difference(session: Session, reference: Reference, batches: Iterable[Arrays], advance: Advance) -> Measured:
    """Compare a session with its reference on batches; what is said at padding is never read.

    Args:
        session: what is checked.
        reference: what is right by definition.
        batches: inputs of one run each; at least one.
        advance: is told of every batch.

    Raises:
        InputError: their outputs differ in name or shape, or there is no batch.
        RunError: the session failed.
    """
    overall, scale = Comparison(), 0.0
    masked = session.signature.token_outputs
    seen: list[Arrays] = []
    for batch in batches:
        actual, expected = session.run(batch), reference.run(batch)
        mask = session.signature.mask_of(batch)
        overall.add(actual, expected, mask=mask, masked=masked)
        for name, values in expected.items():
            read = values[mask.astype(bool)] if name in masked else values
            scale = max(scale, float(np.abs(read).max(where=np.isfinite(read), initial=0.0)))
        seen.append(batch)
        advance(1)
    parity = overall.parity()
    return Measured(parity, seen[parity.worst_batch], scale)


def random_batches(session: Session) -> Iterator[Arrays]:
    """Yield random token ids at several shapes; every second text of a batch is padded, where the folder pads."""
    side = session.encoder.padding_side
    for seed, (batch, length) in enumerate(SHAPES):
        draw = Draw(batch, min(length, session.max_length), seed=seed, padding="half", side=side)
        yield session.signature.random_feeds(draw)


def text_batches(session: Session, texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[Arrays]:
    """Yield texts as the session encodes them, in their order."""
    for first in range(0, len(texts), TEXT_BATCH):
        rows = slice(first, first + TEXT_BATCH)
        yield session.encode(texts[rows], None if pairs is None else pairs[rows])
