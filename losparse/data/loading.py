"""From files to what a trainer takes, whatever the task.

    file or hub name --load_examples--> Examples --tokenize--> Tokenized (unpadded lists, for a padding collator)

What a task's columns, labels and rows are says its file in `losparse.data.tasks`. Columns of texts, unless they are
named by option (the first that exists is taken):

    text    text, sentence, sentence1, premise, question1, content, review
    pair    sentence2 beside sentence1, hypothesis beside premise, question2 beside question1

Everything is deterministic: class ids follow the sorted label names (integers by value), row order is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from losparse_runtime.contract.task import Task

from .columns import Columns
from .examples import Examples
from .tables import read_table
from .tasks.registry import find_data, find_texts
from .tokens import Tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_examples(
    source: str | Path,
    *,
    task: str | Task,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    split: str = "train",
) -> Examples:
    """Read labelled texts.

    Args:
        source: csv, tsv or jsonl file, or a hub data set (see `losparse.data.tables`); also a txt file where the task
            needs no labels.
        task: what they are labelled for.
        text_column: column of texts, words or questions; default: see the task.
        pair_column: column of second texts or contexts; default: see the task.
        label_column: column of labels, tags, answers or numbers; default: see the task.
        label_names: classes by id, as training has them; any other label is refused. Default: those in the file.
        split: split of a hub data set whose name gives none.

    Raises:
        LosparseError: a column is not there, a value is missing or of the wrong kind, or the labels do not do.
    """
    data = find_data(task)
    table = read_table(source, split=split, plain=data.plain)
    return data.read(table, Columns(text_column, pair_column, label_column), label_names)


def load_texts(
    source: str | Path,
    *,
    task: str | Task | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    split: str = "validation",
) -> tuple[list[str], list[str] | None]:
    """Read texts, and second texts if there are any, without labels, also from txt; words are joined by spaces.

    Args:
        source: see `load_examples`.
        task: what the texts are for; of no matter for most.
        text_column: see `load_examples`.
        pair_column: see `load_examples`.
        split: see `load_examples`.

    Raises:
        LosparseError: a column is not there, or a text is missing or empty.
    """
    return find_texts(task).read_texts(read_table(source, split=split, plain=True), Columns(text_column, pair_column))


def tokenize(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: str | Task,
    max_length: int,
    progress: Callable[[int], None] | None = None,
) -> Tokenized:
    """Tokenise labelled texts.

    Args:
        examples: what `load_examples` returns.
        tokenizer: a fast tokenizer of transformers.
        task: what they are labelled for.
        max_length: in tokens; longer texts are cut, or taken apart, as the task has it.
        progress: called with the number of texts done since the last call.

    Raises:
        LosparseError: a slow tokenizer, or one that the task cannot do with; a length that leaves no room for a text;
            or the tokenizer fails on a text.
    """
    return find_data(task).tokenize(examples, tokenizer, max_length, progress)


def tokenize_texts(
    texts: Examples,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: str | Task | None,
    max_length: int,
    progress: Callable[[int], None] | None = None,
) -> Tokenized:
    """Tokenise texts as a model of a task meets them, without labels.

    Args:
        texts: labels are not looked at.
        tokenizer: a fast tokenizer of transformers.
        task: of the model; None where nobody knows it.
        max_length: in tokens.
        progress: called with the number of texts done since the last call.

    Raises:
        LosparseError: see `tokenize`.
    """
    unlabelled = Examples.unlabelled(texts.texts, texts.pairs)
    return find_texts(task).tokenize_texts(unlabelled, tokenizer, max_length, progress)
