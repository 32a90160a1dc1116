"""One class a word.

tokens    tokens, words: list of words                                (jsonl)
tags      tags, ner_tags, labels: list of one label per word          (jsonl)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ...errors import LosparseError, shown
from ..columns import TEXT_COLUMNS, Columns, find_column, text_of, values_of
from ..examples import Examples
from ..labels import class_id, class_lookup, class_names, label_text
from ..metrics import Metric, classification
from ..tables import Table
from ..tokens import IGNORED, Tokenized, count_truncated, model_inputs
from .base import Collator, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS_COLUMNS = ("tokens", "words")
TAGS_COLUMNS = ("tags", "ner_tags", "labels")


class TokenClassification(TaskData):
    """A row a text; labels = class id at the first token of each word, `IGNORED` at every other token."""

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        """Return lists of words with a class for each; see `TaskData.read`."""
        words = find_column(table, columns.text, WORDS_COLUMNS, "text")
        tags = find_column(table, columns.label, TAGS_COLUMNS, "label")
        texts: list[list[str]] = []
        values: list[list[str]] = []
        for row, (sentence, labels) in enumerate(zip(values_of(table, words), values_of(table, tags), strict=True)):
            for column, value in ((words, sentence), (tags, labels)):
                if not isinstance(value, list) or not value:
                    raise LosparseError(
                        f"{table.where(row)}: '{column}' must be a list with one entry per word, got {shown(value)}"
                    )
            if len(sentence) != len(labels):
                raise LosparseError(
                    f"{table.where(row)}: '{words}' has {len(sentence)} words, '{tags}' has {len(labels)} labels"
                )
            texts.append([text_of(table, row, words, word) for word in sentence])
            values.append([label_text(table, row, tags, label) for label in labels])
        flat = [value for row in values for value in row]
        classes = class_names(table, tags, flat, names)
        lookup = class_lookup(flat, classes)
        ids = [[class_id(table, row, value, lookup, classes) for value in each] for row, each in enumerate(values)]
        return Examples(texts, None, ids, classes)

    def read_texts(self, table: Table, columns: Columns) -> tuple[list[str], list[str] | None]:
        """Return texts; words are joined by spaces; see `TaskData.read_texts`."""
        if table.plain:
            return super().read_texts(table, columns)
        column = find_column(table, columns.text, (*WORDS_COLUMNS, *TEXT_COLUMNS), "text")
        texts = [
            " ".join(value) if isinstance(value, list) and all(isinstance(word, str) for word in value) else value
            for value in values_of(table, column)
        ]
        return [text_of(table, row, column, value) for row, value in enumerate(texts)], None

    def rows(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, first: int) -> Tokenized:
        """Return rows of words joined by spaces, as a session meets them; a token's word is found by its characters."""
        joined = [" ".join(words) for words in examples.texts]
        encoded = tokenizer(joined, truncation=True, max_length=max_length, return_offsets_mapping=True)
        rows: list[dict[str, Any]] = []
        for row, inputs in enumerate(model_inputs(encoded, len(examples))):
            labels = word_labels(examples.texts[row], encoded["offset_mapping"][row], examples.labels[row])
            rows.append({**inputs, "labels": labels})
        return Tokenized(rows, count_truncated(encoded))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return what pads labels as well, with `IGNORED`."""
        from transformers import DataCollatorForTokenClassification

        collate: Collator = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED)
        return collate

    def metric(self) -> Metric:
        """Return accuracy and Matthews correlation, of labelled tokens."""
        return classification


def word_labels(words: Sequence[str], offsets: Sequence[tuple[int, int]], labels: Sequence[int]) -> list[int]:
    """Return a label for every token of words that are joined by spaces.

    Args:
        words: of one text.
        offsets: of its tokens: first character, and one past the last.
        labels: of the words.

    Returns:
        The label of a word at its first token, `IGNORED` at the rest of it and at special tokens.
    """
    ends = list(accumulate(len(word) + 1 for word in words))  # one past the space after each word
    word_of = [word for word, end in enumerate(ends) for _ in range(end - (ends[word - 1] if word else 0))]
    aligned = []
    last = -1
    for start, end in offsets:
        # A token may begin with the space before its word, so its last character tells the word.
        word = word_of[end - 1] if end > start else last
        aligned.append(labels[word] if word > last else IGNORED)
        last = max(word, last)
    return aligned
