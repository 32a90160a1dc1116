"""Texts, what a session says of them, and whether a server says the same."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from losparse_runtime import Session
from losparse_runtime.tasks.classify import Classification

from .client import Reply

Read = Callable[[bytes], tuple[str, float]]
"""Takes the label and its score out of an answer's body."""

SAME_SCORE = 1e-4
"""How far a score may be from the session's where a text is computed as if alone: sums of float32 in another order move
logits by about 1e-5, and a probability moves by at most a quarter of that."""
MIXED_SCORE = 0.35
"""How far where a run rounds all its texts by one int8 scale: measured on SST-2, scores then move by tenths, and labels
near the boundary change. The bound only tells a text's answer from another text's; the largest change is reported."""
ROUNDED_SCORE = 0.02
"""How far where every token has an int8 scale of its own: sums in another order may round a number to its neighbour,
1/127 of a row's largest. Such steps move scores by thousandths."""
_WORDS = ("a", "film", "that", "is", "fine", "dull", "moving", "funny", "slow", "and", "bright", "with", "no", "plot")


@dataclass(frozen=True)
class Expected:
    """Texts and what is right to say of them.

    Attributes:
        texts: in order.
        results: what the session says of each, run alone.
    """

    texts: tuple[str, ...]
    results: tuple[Classification, ...]

    def wrong(self, replies: Sequence[Reply], read: Read, tolerance: float) -> tuple[list[str], float]:
        """Compare answers with what is right.

        Args:
            replies: their numbers are places of texts.
            read: of the server.
            tolerance: of a score.

        Returns:
            What is wrong, a line each; and the largest difference of a score.
        """
        found, worst = [], 0.0
        for each in replies:
            text, right = self.texts[each.number], self.results[each.number]
            if each.status != 200:
                found.append(f"{text!r}: status {each.status}, {each.body[:200]!r}")
                continue
            label, score = read(each.body)
            off = abs(right.scores[label] - score) if label in right.scores else 1.0
            worst = max(worst, off)
            near = right.score - right.scores.get(label, 0.0) <= 2 * tolerance  # two labels that may change places
            if off > tolerance or not near:
                found.append(f"{text!r}: {label} {score:.6f}, not {right.label} {right.score:.6f}")
        return found, worst


def texts_of(file: Path | None, session: Session, count: int, most_tokens: int) -> list[str]:
    """Return texts of at most so many tokens: the first ones of a CSV file's column "text", or made ones without it.

    Raises:
        ValueError: there is none that short.
    """
    if file is None:
        listed = [" ".join(_WORDS[at : at + size]) for size in range(2, 9) for at in range(len(_WORDS) - size)]
    else:
        with file.open(newline="", encoding="utf-8") as lines:
            listed = [row["text"] for row in csv.DictReader(lines)]
    found: list[str] = []
    for text in dict.fromkeys(listed):
        if len(found) < count and len(session.encoder.encodings([text], None, None)[0].ids) <= most_tokens:
            found.append(text)
    if not found:
        raise ValueError(f"{file}: has no text of at most {most_tokens} tokens")
    return found


def expect(session: Session, texts: Sequence[str]) -> Expected:
    """Ask a session about every text alone."""
    return Expected(tuple(texts), tuple(session.classify([text], batch_size=1)[0] for text in texts))
