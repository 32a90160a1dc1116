"""Which of several answers a language model finds likeliest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from ..contract.progress import SILENT, Progress
from ..errors import InputError
from .perplexity import spread
from .rows import RUN_TOKENS, Row, RowScore, Scored, score_rows


@dataclass(frozen=True)
class Question:
    """A text and ways to go on with it, one of which is right.

    Attributes:
        context: what is read first; may be empty.
        choices: two or more, none empty. A space is put between context and choice where neither has one.
        answer: number of the right one, from 0.
    """

    context: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or not all(choice.strip() for choice in self.choices):
            raise InputError(f"a question must have 2 choices or more, none empty, got {list(self.choices)!r}")
        if not 0 <= self.answer < len(self.choices):
            raise InputError(f"answer must be in 0..{len(self.choices) - 1}, the number of a choice, got {self.answer}")


@dataclass(frozen=True)
class ChoiceScore:
    """How often the right choice is the likeliest.

    Attributes:
        logs: of every choice of every question, the logarithm of its probability behind the context, in nats.
        questions: that were asked.
    """

    logs: tuple[tuple[float, ...], ...]
    questions: tuple[Question, ...]

    @property
    def accuracy(self) -> float:
        """Share of questions whose likeliest choice is right, in 0..1; of equal ones the first counts."""
        return self._share(normalised=False)

    @property
    def accuracy_normalised(self) -> float:
        """The same where each logarithm is divided by the characters of its choice, so that long ones lose nothing."""
        return self._share(normalised=True)

    @property
    def chance(self) -> float:
        """What guessing gives."""
        return math.fsum(1 / len(each.choices) for each in self.questions) / len(self.questions)

    def picks(self, *, normalised: bool = False) -> list[int]:
        """Return the number of the likeliest choice of every question."""
        picked = []
        for question, logs in zip(self.questions, self.logs, strict=True):
            sizes = [len(choice) if normalised else 1 for choice in question.choices]
            values = [log / size for log, size in zip(logs, sizes, strict=True)]
            picked.append(values.index(max(values)))
        return picked

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; an error is a standard error, None of a single question."""
        shares = {"accuracy": self.accuracy, "accuracy_normalised": self.accuracy_normalised}
        errors = {f"{name}_error": self._error(value) for name, value in shares.items()}
        return {**shares, **errors, "chance": self.chance, "questions": len(self.questions)}

    def _share(self, *, normalised: bool) -> float:
        right = [
            pick == each.answer for pick, each in zip(self.picks(normalised=normalised), self.questions, strict=True)
        ]
        return sum(right) / len(right)

    def _error(self, share: float) -> float | None:
        count = len(self.questions)
        return None if count < 2 else math.sqrt(share * (1 - share) / (count - 1))


def measure_choices(
    model: Scored,
    questions: Sequence[Question],
    *,
    limit: int | None = None,
    run_tokens: int = RUN_TOKENS,
    progress: Progress = SILENT,
) -> ChoiceScore:
    """Ask a model which of several choices goes on with a text.

    A choice is as likely as its tokens are behind those of the context, one after another. A context that leaves it no
    position is cut on the left.

    Args:
        model: to ask.
        questions: one or more.
        limit: ask so many of them, evenly taken; default: all.
        run_tokens: most tokens in one run, padding included.
        progress: shows a stage.

    Raises:
        InputError: there is no question, a choice is longer than the model reads, or a context is empty and no token
            begins a text.
        RunError: the model failed, or its logits have NaN.
    """
    if not questions:
        raise InputError("questions must hold at least one question, got none")
    asked = spread(list(questions), limit)
    begin = beginning(model)
    rows = [
        choice_row(model, begin, question, choice, f"question {number}")
        for number, question in enumerate(asked)
        for choice in question.choices
    ]
    with progress.stage("asking questions", len(rows)) as advance:
        scores = iter(score_rows(model, rows, run_tokens=run_tokens, advance=advance))
    logs = tuple(tuple(next(scores).log for _ in question.choices) for question in asked)
    return ChoiceScore(logs, tuple(asked))


def beginning(model: Scored) -> list[int]:
    """Return the tokens that a model's tokenizer puts in front of every text."""
    plain, special = model.tokens("a", special=False), model.tokens("a")
    place = next((at for at in range(len(special)) if special[at : at + len(plain)] == plain), 0)
    return special[:place]


def choice_row(model: Scored, begin: Sequence[int], question: Question, choice: str, name: str) -> Row:
    """Return what a model reads of one choice, of which the choice counts.

    Args:
        model: to ask.
        begin: what `beginning` returned.
        question: whose context stands in front.
        choice: of it.
        name: what messages call the question.

    Raises:
        InputError: the choice is too long, or nothing stands in front of it.
    """
    context = question.context.rstrip()
    between = question.context[len(context) :]
    if context and not between and not choice[0].isspace():
        between = " "
    return continuation_row(model, begin, context, between + choice, name)


def continuation_row(model: Scored, begin: Sequence[int], context: str, text: str, name: str) -> Row:
    """Return a row of a context and a text behind it, of which the text counts; see `choice_row`.

    The text's tokens are those that the tokenizer makes of both together, from the first one on that it does not make
    of the context alone.
    """
    alone = model.tokens(context, special=False) if context else []
    both = model.tokens(context + text, special=False)
    shared = min(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, both, strict=False))), len(both) - 1
    )
    front = list(begin) or ([] if shared or model.end is None else [model.end])
    counted = len(both) - shared
    if counted >= model.positions:
        raise InputError(
            f"{name}: a choice has {counted} tokens, and {model.name} reads {model.positions} at once, of which one "
            "must stand in front; shorten it"
        )
    tokens = [*front, *both][-model.positions :]
    if len(tokens) == counted:
        raise InputError(f"{name}: nothing stands in front of a choice, and no token begins a text; give a context")
    return Row(tokens, counted)


def all_first(score: RowScore) -> bool:
    """Tell whether a model would have written the counted tokens of a row by itself, always taking the likeliest."""
    return score.first == score.counted
