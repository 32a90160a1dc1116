"""Labelled texts to what a trainer takes: token ids, and labels aligned with the tokens.

    text-classification    labels = class id
    regression             labels = number
    token-classification   labels = class id at the first token of each word, `IGNORED` at every other token
    question-answering     start_positions, end_positions = first and last token of the answer, 0 and 0 where the
                           answer is not in the window; a context that is too long gives several overlapping windows
    causal-lm              labels = token ids of the row; all texts, each with the token that ends a text, are one
                           long row that is cut into rows of the maximum length. The rest at its end is left out: so
                           all rows are full, need no padding, and the mean over rows is the mean over tokens

Rows are not padded: a padding collator pads each batch to its longest row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import LosparseError

if TYPE_CHECKING:
    from .examples import Answer, Examples

IGNORED = -100
"""Label of tokens that carry none: torch's cross entropy leaves them out."""

CHUNK = 1000
"""Texts tokenised between two reports of progress."""

STRIDE_SHARE = 1 / 3
"""Overlap of two windows of a long context, as a share of the maximum length."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

WINDOW = "window"
"""Key of a row's `Window`, in rows that a metric is to look at; no model takes it."""


class Window(NamedTuple):
    """What a row of question-answering is, beside its tokens: one window of the context of one question.

    Attributes:
        question: number of the example.
        start: the first token of the row that is the context's.
        stop: one past the last one.
        answerable: 1 if the question has an answer, in this window or elsewhere; else 0.
    """

    question: int
    start: int
    stop: int
    answerable: int


class Tokenized(Sequence[dict[str, Any]]):
    """Tokenised examples: a map-style data set of dicts of plain lists, which any torch `DataLoader` takes.

    Attributes:
        truncated: how many examples did not fit into the maximum length.
        windows: of which question each row is a window, for question-answering; else None.
    """

    def __init__(self, rows: list[dict[str, Any]], truncated: int = 0, windows: Sequence[Window] | None = None) -> None:
        """Hold the rows."""
        self._rows = rows
        self.truncated = truncated
        self.windows = windows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        """Return one row (as a copy, since collators pop from it), or a slice of rows."""
        if isinstance(row, slice):
            windows = None if self.windows is None else self.windows[row]
            return Tokenized(self._rows[row], self.truncated, windows)
        return dict(self._rows[row])

    def measurable(self) -> Tokenized:
        """Return the rows with their `Window` under `WINDOW`, if they are windows of questions."""
        if self.windows is None:
            return self
        rows = [{**row, WINDOW: list(window)} for row, window in zip(self._rows, self.windows, strict=True)]
        return Tokenized(rows, self.truncated, self.windows)


def tokenize(
    examples: Examples,
    tokenizer: Any,
    *,
    task: str,
    max_length: int,
    progress: Callable[[int], None] | None = None,
) -> Tokenized:
    """Tokenise labelled texts.

    Args:
        examples: what `losparse.data.examples.load_examples` returns.
        tokenizer: a fast tokenizer of transformers.
        task: one of `losparse.data.examples.TASKS`.
        max_length: in tokens; longer texts are cut, longer contexts give several windows; for causal-lm the length
            of every row.
        progress: called with the number of texts done since the last call.

    Raises:
        LosparseError: a slow tokenizer, a length that leaves no room for a text, or (causal-lm) a tokenizer that
            cannot end a text, or less text than one row needs; or the tokenizer fails on a text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise LosparseError(f"the tokenizer must be a fast one (tokenizer.json), got {type(tokenizer).__name__}")
    special = tokenizer.num_special_tokens_to_add(pair=examples.pairs is not None)
    if max_length <= special:
        raise LosparseError(f"max_length must be above the {special} special tokens of every text, got {max_length}")
    try:
        return _tokenize(examples, tokenizer, task, max_length, progress)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust; its class is made at the first panic
            raise
        reason = " ".join(str(error).split())[:200]
        raise LosparseError(
            f"the tokenizer fails on one of the texts ({reason}); mend its tokenizer.json, or leave that text out"
        ) from error


def _tokenize(
    examples: Examples, tokenizer: Any, task: str, max_length: int, progress: Callable[[int], None] | None
) -> Tokenized:
    if task == "causal-lm":
        return _blocks(examples, tokenizer, max_length, progress)
    questions = task == "question-answering"
    encode = _words if task == "token-classification" else _texts
    rows: list[dict[str, Any]] = []
    windows: list[Window] = []
    truncated = 0
    for first in range(0, len(examples), CHUNK):
        part = examples.select(range(first, min(first + CHUNK, len(examples))))
        if questions:
            new_rows, cut, new_windows = _questions(part, tokenizer, max_length)
            windows += [window._replace(question=first + window.question) for window in new_windows]
        else:
            new_rows, cut = encode(part, tokenizer, max_length)
        rows += new_rows
        truncated += cut
        if progress is not None:
            progress(len(part))
    return Tokenized(rows, truncated, windows if questions else None)


def _blocks(examples: Examples, tokenizer: Any, length: int, progress: Callable[[int], None] | None) -> Tokenized:
    """Cut all texts, one after another, into rows of the same length."""
    end = tokenizer.eos_token_id
    if end is None:
        raise LosparseError("the tokenizer has no token that ends a text; set eos_token in tokenizer_config.json")
    if length < 2:
        raise LosparseError(f"max_length must be 2 tokens or more, so that one can be predicted, got {length}")
    stream: list[int] = []
    for first in range(0, len(examples), CHUNK):
        texts = examples.texts[first : first + CHUNK]
        for ids in tokenizer(texts, verbose=False)["input_ids"]:  # it would warn of texts longer than the model takes
            stream += ids if ids and ids[-1] == end else [*ids, end]
        if progress is not None:
            progress(len(texts))
    if len(stream) < length:
        raise LosparseError(
            f"max_length must be at most the {len(stream)} tokens of all texts together, got {length}; "
            "lower it (--max-length), or give more text"
        )
    blocks = (stream[start : start + length] for start in range(0, len(stream) - length + 1, length))
    return Tokenized([{"input_ids": ids, "attention_mask": [1] * length, "labels": list(ids)} for ids in blocks])


def _texts(examples: Examples, tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int]:
    encoded = tokenizer(examples.texts, examples.pairs, truncation=True, max_length=max_length)
    rows = [
        {**inputs, "labels": label}
        for inputs, label in zip(_inputs(encoded, len(examples)), examples.labels, strict=True)
    ]
    return rows, _count_truncated(encoded)


def _words(examples: Examples, tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Tokenise words joined by spaces, as a session will meet them, and find each token's word by its characters."""
    joined = [" ".join(words) for words in examples.texts]
    encoded = tokenizer(joined, truncation=True, max_length=max_length, return_offsets_mapping=True)
    rows = []
    for row, inputs in enumerate(_inputs(encoded, len(examples))):
        ends = list(accumulate(len(word) + 1 for word in examples.texts[row]))  # one past the space after each word
        word_of = [number for number, end in enumerate(ends) for _ in range(end - (ends[number - 1] if number else 0))]
        rows.append(
            {**inputs, "labels": _first_token_labels(encoded["offset_mapping"][row], word_of, examples.labels[row])}
        )
    return rows, _count_truncated(encoded)


def _first_token_labels(offsets: Sequence[tuple[int, int]], word_of: Sequence[int], labels: Sequence[int]) -> list[int]:
    """Return the label of a word at its first token, `IGNORED` at the rest of it and at special tokens."""
    aligned = []
    last = -1
    for start, end in offsets:
        # A token may begin with the space before its word, so its last character tells the word.
        word = word_of[end - 1] if end > start else last
        aligned.append(labels[word] if word > last else IGNORED)
        last = max(word, last)
    return aligned


def _questions(examples: Examples, tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int, list[Window]]:
    """Return the rows, how many questions have several, and of which question each row is a window."""
    questions = tokenizer(examples.texts, add_special_tokens=False)["input_ids"]
    stride = int(max_length * STRIDE_SHARE)
    longest = max(len(ids) for ids in questions)
    if longest + stride >= max_length - tokenizer.num_special_tokens_to_add(pair=True):
        raise LosparseError(
            f"max_length must leave room for a context beside the longest question ({longest} tokens), got {max_length}"
        )
    encoded = tokenizer(
        examples.texts,
        examples.pairs,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    sources = encoded["overflow_to_sample_mapping"]
    rows, windows = [], []
    for row, inputs in enumerate(_inputs(encoded, len(sources))):
        answer, context = examples.labels[sources[row]], [part == 1 for part in encoded.sequence_ids(row)]
        start, end = answer_span(encoded["offset_mapping"][row], context, answer)
        rows.append({**inputs, "start_positions": start, "end_positions": end})
        begin = context.index(True) if any(context) else 0  # the context's tokens stand together
        windows.append(Window(sources[row], begin, begin + sum(context), int(bool(answer.text))))
    return rows, sum(count > 1 for count in Counter(sources).values()), windows


def answer_span(offsets: Sequence[tuple[int, int]], context: Sequence[bool], answer: Answer) -> tuple[int, int]:
    """Return the first and the last token of the answer, or (0, 0) if it is not wholly in this window."""
    if not answer.text:
        return 0, 0
    stop = answer.start + len(answer.text)
    inside = [
        token
        for token, (start, end) in enumerate(offsets)
        if context[token] and start < stop and end > answer.start and end > start
    ]
    if not inside or offsets[inside[0]][0] > answer.start or offsets[inside[-1]][1] < stop:
        return 0, 0
    return inside[0], inside[-1]


def _inputs(encoded: Any, rows: int) -> Iterator[dict[str, list[int]]]:
    names = [name for name in INPUTS if name in encoded]
    return ({name: encoded[name][row] for name in names} for row in range(rows))


def _count_truncated(encoded: Any) -> int:
    return sum(bool(encoding.overflowing) for encoding in encoded.encodings)
