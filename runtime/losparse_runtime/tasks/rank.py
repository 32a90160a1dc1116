"""Texts in the order in which they answer a query, by the one score that a cross-encoder gives a pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.task import REGRESSION, TASKS, Task
from ..contract.tensors import Arrays
from ..errors import InputError
from ..text.encoder import text_list
from .base import Helper, Served, Table, Work, class_names, do, require
from .classify import Classification, classify
from .scoring import ACTIVATIONS


@dataclass(frozen=True)
class Ranked:
    """One text of a ranking.

    Attributes:
        index: its place among the texts that were given, counted from 0.
        text: the text.
        score: how well it goes with the query; `rank` says in which numbers.
    """

    index: int
    text: str
    score: float


def rank(session: Served, query: str, texts: str | Iterable[str], batch_size: int = 32) -> list[Ranked]:
    """Sort texts by how well each goes with a query.

    The model reads the query as the first text of a pair and each text as the second. The scores are those of
    `CrossEncoder.rank` in sentence-transformers: the output after the activation that config.json names
    (`sentence_transformers.activation_fn`, or `sbert_ce_default_activation_function` of older models), and after a
    sigmoid where it names none. Where config.json says that the model is a regression (`problem_type`, as after
    `losparse compress --train --task regression`) and names no activation, the score is the output itself, in the unit
    of the labels it was trained on. `classify` gives the output itself for either; the order is the same.

    Args:
        session: of a folder with one output a pair: regression, a cross-encoder.
        query: what is looked for.
        texts: what is sorted; a bare string is one text.
        batch_size: pairs in one run, >= 1.

    Returns:
        One entry a text, the best first; of equal ones the first given.

    Raises:
        InputError: the folder has not one output a text, its activation is unknown, or an argument is wrong.
        RunError: the model failed, or its outputs are not finite.

    References:
        `CrossEncoder.get_default_activation_fn` of sentence-transformers 6.2.
    """
    return do(session, rank_work(session, query, texts), batch_size)


def rank_work(session: Served, query: str, texts: str | Iterable[str]) -> Work[list[Ranked]]:
    """Tokenise what `rank` then runs."""
    work = _score_work(session, texts, query)
    return replace(work, collect=_best_first)


@dataclass(frozen=True)
class _Scored:
    """A text with the model's output, which still tells scores apart that an activation rounds to one number."""

    output: float
    ranked: Ranked


def _score(session: Served, texts: str | Iterable[str], batch_size: int, query: str) -> list[_Scored]:
    """Score texts, in their order."""
    return do(session, _score_work(session, texts, query), batch_size)


def _score_work(session: Served, texts: str | Iterable[str], query: str) -> Work[Any]:
    require(session, HELPER.name, does=TASKS[session.task].scores_texts)
    count = len(class_names(session))
    if count != 1:
        raise InputError(f"rank needs a model of one output, {session.folder} has {count}; use classify with pairs=")
    (name,) = TASKS[session.task].outputs
    activation = ACTIVATIONS[_activation(session)]
    if not isinstance(query, str):
        raise InputError(f"query must be a string, got {type(query).__name__}")
    listed = text_list("texts", texts)

    def read(places: Sequence[int], outputs: Arrays, mask: NDArray[Any]) -> list[_Scored]:
        raw = outputs[name][:, 0].astype(np.float64)
        scored = zip(places, raw.tolist(), activation(raw).tolist(), strict=True)
        return [_Scored(output, Ranked(place, listed[place], score)) for place, output, score in scored]

    return Work(session.encoder.encodings([query] * len(listed), listed), read, list)


def _best_first(scored: Sequence[_Scored]) -> list[Ranked]:
    return [each.ranked for each in sorted(scored, key=lambda each: -each.output)]


def _activation(session: Served) -> str:
    """Return the name of the function that makes a score of an output."""
    said = session.config.activation
    if said is None:
        return "Identity" if session.config.problem_type == REGRESSION.problem else "Sigmoid"
    name = said.rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise InputError(
            f"{session.folder}: config.json names activation {said!r}, rank knows {', '.join(ACTIVATIONS)}; "
            "use classify for the raw outputs"
        )
    return name


def _table(task: Task, results: Sequence[_Scored], texts: Sequence[str]) -> Table:
    places = [replace(each, ranked=replace(each.ranked, index=place)) for place, each in enumerate(results, start=1)]
    rows = [(f"{each.score:.4f}", str(each.index), each.text) for each in _best_first(places)]
    return Table(("score", "number", "text"), rows, (2,))


def _numbers(task: Task, results: Sequence[Classification], texts: Sequence[str]) -> Table:
    numbers = list(results[0].scores)  # the folder's labels; the only one of a model of one output says little
    rows = [
        (*(f"{each.scores[name]:.4f}" for name in numbers), text) for each, text in zip(results, texts, strict=True)
    ]
    return Table((*(["score"] if len(numbers) == 1 else numbers), "text"), rows, (len(numbers),))


HELPER = Helper(
    "rank",
    _score,
    _table,
    options=("query",),
    needs="query",
    without=Helper("classify", classify, _numbers, options=("pairs",)),
)
