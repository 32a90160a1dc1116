"""Labelled texts: from files to what a trainer takes.

    file or hub name --load_examples--> Examples --tokenize--> Tokenized (unpadded lists, for a padding collator)

Columns, unless they are named by option (the first that exists is taken):

    text-classification    text: text, sentence, sentence1, premise, question1, content, review
                           pair: sentence2 beside sentence1, hypothesis beside premise, question2 beside question1
                           label: label, labels, category, class, target      (text, or an integer class id)
    regression             the same; label, or score: a number
    causal-lm              text: as above; no label                                             (also txt)
    token-classification   tokens or words: list of words; tags, ner_tags, labels: one label per word   (jsonl)
    question-answering     question; context; answers: {"text": [..], "answer_start": [..]}             (jsonl)

Everything is deterministic: class ids follow the sorted label names (integers by value), row order is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import LosparseError
from .labels import class_id, class_lookup, class_names, matching_ids
from .tables import Table, read_table, show
from .tokens import Tokenized, tokenize

__all__ = [
    "TASKS",
    "Answer",
    "Examples",
    "Tokenized",
    "load_examples",
    "load_texts",
    "relabel",
    "split_examples",
    "tokenize",
]

TASKS = ("text-classification", "token-classification", "question-answering", "regression", "causal-lm")
TEXT_COLUMNS = ("text", "sentence", "sentence1", "premise", "question1", "content", "review")
PAIR_OF = {"sentence1": "sentence2", "premise": "hypothesis", "question1": "question2"}
LABEL_COLUMNS = ("label", "labels", "category", "class", "target")
VALUE_COLUMNS = ("label", "labels", "score", "target")
WORDS_COLUMNS = ("tokens", "words")
TAGS_COLUMNS = ("tags", "ner_tags", "labels")


class Answer(NamedTuple):
    """Answer to a question: the characters `context[start : start + len(text)]`; empty text = not answerable."""

    text: str
    start: int


@dataclass(frozen=True)
class Examples:
    """Labelled texts of one split.

    Attributes:
        texts: a text, the list of words (token-classification), or the question, for each example.
        pairs: second text or context of each example; None where the task has none.
        labels: class id, class id of each word, `Answer`, or number, for each example; None for causal-lm.
        label_names: by class id; empty where labels are no classes.
    """

    texts: list[Any]
    pairs: list[str] | None
    labels: list[Any]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.texts)

    def select(self, rows: Sequence[int]) -> Examples:
        """Return the examples at these rows, in that order."""
        pairs = None if self.pairs is None else [self.pairs[row] for row in rows]
        return Examples([self.texts[row] for row in rows], pairs, [self.labels[row] for row in rows], self.label_names)


def load_examples(
    source: str | Path,
    *,
    task: str,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    split: str = "train",
) -> Examples:
    """Read labelled texts.

    Args:
        source: csv, tsv or jsonl file, or a hub data set (see `losparse.data.tables`); for causal-lm also a txt file.
        task: one of `TASKS`.
        text_column: column of texts, words or questions; default: see the module.
        pair_column: column of second texts or contexts; default: see the module.
        label_column: column of labels, tags, answers or numbers; default: see the module.
        label_names: classes by id, as training has them; any other label is refused. Default: those in the file.
        split: split of a hub data set whose name gives none.

    Raises:
        LosparseError: a column is not there, a value is missing or of the wrong kind, or the labels do not do.
    """
    if task not in TASKS:
        raise LosparseError(f"task must be one of {', '.join(TASKS)}, got '{task}'")
    table = read_table(source, split=split, plain=task == "causal-lm")
    if task == "question-answering":
        return _load_questions(table, text_column, pair_column, label_column)
    if task == "token-classification":
        return _load_words(table, text_column, label_column, label_names)
    if task == "causal-lm":
        return _load_plain(table, text_column, pair_column, label_column)
    texts, pairs = _load_texts(table, text_column, pair_column)
    if task == "regression":
        column = _column(table, label_column, VALUE_COLUMNS, "label")
        numbers = [_number(table, row, column, value) for row, value in enumerate(_values(table, column))]
        return Examples(texts, pairs, numbers, ())
    column = _column(table, label_column, LABEL_COLUMNS, "label")
    values = [_label(table, row, column, value) for row, value in enumerate(_values(table, column))]
    names = class_names(table, column, values, label_names)
    lookup = class_lookup(values, names)
    labels = [class_id(table, row, value, lookup, names) for row, value in enumerate(values)]
    return Examples(texts, pairs, labels, names)


def load_texts(
    source: str | Path,
    *,
    task: str = "text-classification",
    text_column: str | None = None,
    pair_column: str | None = None,
    split: str = "validation",
) -> tuple[list[str], list[str] | None]:
    """Read texts, and second texts if there are any, without labels, also from txt; words are joined by spaces.

    Raises:
        LosparseError: a column is not there, or a text is missing or empty.
    """
    table = read_table(source, split=split, plain=True)
    if table.plain:  # columns are those of other files
        return _load_texts(table, None, None)
    if task == "token-classification":
        column = _column(table, text_column, (*WORDS_COLUMNS, *TEXT_COLUMNS), "text")
        texts = [
            " ".join(value) if isinstance(value, list) and all(isinstance(word, str) for word in value) else value
            for value in _values(table, column)
        ]
        return [_text(table, row, column, value) for row, value in enumerate(texts)], None
    if task == "question-answering":
        text_column, pair_column = text_column or "question", pair_column or "context"
    return _load_texts(table, text_column, pair_column)


def relabel(examples: Examples, names: Sequence[str]) -> Examples:
    """Return the examples with the class ids of a model that knows these labels, or as they are if it does not.

    Args:
        examples: with labels in the order of `load_examples`.
        names: the model's labels by class id; upper and lower case count as one. Examples whose labels are the integers
            below their number are taken to be labelled with class ids.
    """
    new = matching_ids(examples.label_names, names)
    if not new:
        return examples
    labels = [[new[each] for each in label] if isinstance(label, list) else new[label] for label in examples.labels]
    return replace(examples, labels=labels, label_names=tuple(names))


def split_examples(examples: Examples, share: float, seed: int = 0) -> tuple[Examples, Examples]:
    """Hold out a share of the examples; equal texts go to the same side.

    Args:
        examples: what to split.
        share: of the distinct texts to hold out, in (0, 1); at least one text is held out.
        seed: of the choice; the same seed gives the same split.

    Returns:
        The rest and the held-out part, both in their former order.

    Raises:
        LosparseError: the share is out of range, or there are fewer than two distinct texts.
    """
    if not 0 < share < 1:
        raise LosparseError(f"share of examples to hold out must be in (0, 1), got {share}")
    pairs: Sequence[str | None] = examples.pairs or [None] * len(examples)
    keys = [repr(both) for both in zip(examples.texts, pairs, strict=True)]
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        raise LosparseError(f"splitting needs at least 2 different texts, got {len(distinct)}; give a validation file")
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    chosen = {distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))[:count]}
    rest = [row for row, key in enumerate(keys) if key not in chosen]
    held_out = [row for row, key in enumerate(keys) if key in chosen]
    return examples.select(rest), examples.select(held_out)


def _load_texts(table: Table, text: str | None, pair: str | None) -> tuple[list[str], list[str] | None]:
    first = _column(table, text, TEXT_COLUMNS, "text")
    partner = PAIR_OF.get(first)
    second = pair if pair is not None or text is not None or partner not in table.columns else partner
    texts = [_text(table, row, first, value) for row, value in enumerate(_values(table, first))]
    if second is None:
        return texts, None
    second = _column(table, second, (), "pair")
    return texts, [_text(table, row, second, value) for row, value in enumerate(_values(table, second))]


def _load_words(table: Table, words: str | None, tags: str | None, names: Sequence[str] | None) -> Examples:
    words = _column(table, words, WORDS_COLUMNS, "text")
    tags = _column(table, tags, TAGS_COLUMNS, "label")
    texts: list[list[str]] = []
    values: list[list[str]] = []
    for row, (sentence, labels) in enumerate(zip(_values(table, words), _values(table, tags), strict=True)):
        for column, value in ((words, sentence), (tags, labels)):
            if not isinstance(value, list) or not value:
                raise LosparseError(
                    f"{table.where(row)}: '{column}' must be a list with one entry per word, got {show(value)}"
                )
        if len(sentence) != len(labels):
            raise LosparseError(
                f"{table.where(row)}: '{words}' has {len(sentence)} words, '{tags}' has {len(labels)} labels"
            )
        texts.append([_text(table, row, words, word) for word in sentence])
        values.append([_label(table, row, tags, label) for label in labels])
    flat = [value for row in values for value in row]
    found = class_names(table, tags, flat, names)
    lookup = class_lookup(flat, found)
    ids = [[class_id(table, row, value, lookup, found) for value in each] for row, each in enumerate(values)]
    return Examples(texts, None, ids, found)


def _load_questions(table: Table, question: str | None, context: str | None, answers: str | None) -> Examples:
    question = _column(table, question, ("question",), "text")
    context = _column(table, context, ("context",), "pair")
    answers = _column(table, answers, ("answers",), "label")
    texts = [_text(table, row, question, value) for row, value in enumerate(_values(table, question))]
    pairs = [_text(table, row, context, value) for row, value in enumerate(_values(table, context))]
    labels = [_answer(table, row, answers, value, pairs[row]) for row, value in enumerate(_values(table, answers))]
    return Examples(texts, pairs, labels, ())


def _load_plain(table: Table, text: str | None, pair: str | None, label: str | None) -> Examples:
    for option, value in (("pair", pair), ("label", label)):
        if value is not None:
            raise LosparseError(f"causal-lm learns from texts alone; leave out --{option}-column, got '{value}'")
    column = _column(table, None if table.plain else text, TEXT_COLUMNS, "text")
    texts = [_text(table, row, column, value) for row, value in enumerate(_values(table, column))]
    return Examples(texts, None, [None] * len(texts), ())


def _column(table: Table, named: str | None, defaults: Sequence[str], option: str) -> str:
    """Return the column to read: the named one, or the first default that exists."""
    wanted = (named,) if named is not None else defaults
    for name in wanted:
        if name in table.columns:
            return name
    kind = f"column '{named}'" if named is not None else f"column called {' or '.join(defaults)}"
    raise LosparseError(
        f"{table.name} has no {kind}; its columns are {', '.join(table.columns)}; name one with --{option}-column"
    )


def _values(table: Table, column: str) -> Iterator[Any]:
    return (row.get(column) for row in table.rows)


def _text(table: Table, row: int, column: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise LosparseError(f"{table.where(row)}: '{column}' must be a text that is not empty, got {show(value)}")
    return table.whole(row, column, value)


def _label(table: Table, row: int, column: str, value: Any) -> str:
    """Return a label as text; integers and booleans are allowed, numbers with a fraction are not labels."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip() if isinstance(value, str | int) else ""
    if not text or re.fullmatch(r"[-+]?\d*\.\d+", text):
        raise LosparseError(f"{table.where(row)}: '{column}' must be a label (a text or an integer), got {show(value)}")
    return table.whole(row, column, text)


def _number(table: Table, row: int, column: str, value: Any) -> float:
    text = value.strip() if isinstance(value, str) else ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        number = float(str(value))  # not float(value), which overflows for an integer of 400 digits
        if math.isfinite(number):
            return number
    raise LosparseError(f"{table.where(row)}: '{column}' must be a finite number, got {show(value)}")


def _answer(table: Table, row: int, column: str, value: Any, context: str) -> Answer:
    """Return the first answer, checked against the context."""
    try:
        texts, starts = value["text"], value["answer_start"]
        if len(texts) != len(starts):
            raise TypeError
        text, start = (str(texts[0]), int(starts[0])) if len(texts) else ("", 0)
    except (TypeError, KeyError, ValueError, IndexError):
        shape = '{"text": ["..."], "answer_start": [0]}'
        raise LosparseError(f"{table.where(row)}: '{column}' must be {shape}, got {show(value)}") from None
    if start < 0 or context[start : start + len(text)] != text:
        found = show(context[max(start, 0) : max(start, 0) + len(text)])
        raise LosparseError(f"{table.where(row)}: answer {show(text)} is not at {start} of its context, {found} is")
    return Answer(text, start)
