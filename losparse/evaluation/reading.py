"""Texts to predict, and questions of several choices, from files.

context     a text; may be empty
choices     in jsonl a list of texts; or columns whose names begin with "choice", in their order: an empty one is none
answer      the right choice: its text, or its number from 0

context,choice0,choice1,answer            {"context": "Cats", "choices": ["meow.", "bark."], "answer": 0}
Cats,meow.,bark.,0
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from losparse_runtime.contract.task import CAUSAL_LM
from losparse_runtime.errors import InputError
from losparse_runtime.evaluation.choices import Question

from ..data.loading import load_texts
from ..data.tables import PLAIN, Table, read_table
from ..errors import LosparseError, shown

CONTEXT, CHOICES, CHOICE, ANSWER = "context", "choices", "choice", "answer"


def read_texts(files: Sequence[str | Path], *, whole: bool = False, text_column: str | None = None) -> list[str]:
    """Read the texts of some files, one after another.

    Args:
        files: csv, tsv, jsonl or txt (a text a line), or hub data sets; see `losparse.data.tables`.
        whole: every file is a .txt that is one text, lines, blank ones and spaces as they are.
        text_column: column of texts; default: the usual names.

    Raises:
        LosparseError: a file or a column is not there, a text is empty, or `whole` is asked for another kind of file.
    """
    if not files:
        raise LosparseError("texts must be one file or more, got none")
    if whole and text_column is not None:
        raise LosparseError("--whole reads .txt files, which have no columns; leave out --text-column, or --whole")
    if whole:
        return [_whole(Path(file)) for file in files]
    return [text for file in files for text in load_texts(file, task=CAUSAL_LM, text_column=text_column)[0]]


def _whole(path: Path) -> str:
    if path.suffix.lower() != PLAIN or not path.is_file():
        raise LosparseError(f"--whole reads .txt files, got '{path}'; leave it out, or give a .txt file that is there")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LosparseError(f"{path}: byte {error.start} is not utf-8; save the file as utf-8") from None
    if not text.strip():
        raise LosparseError(f"{path} is empty; it needs a text")
    return text


def read_questions(file: str | Path) -> list[Question]:
    """Read questions of several choices; see the module.

    Raises:
        LosparseError: the file or a column is not there, or a row is no question.
    """
    table = read_table(file, split="validation")
    named = [name for name in table.columns if name.startswith(CHOICE) and name != CHOICES]
    lacking = [name for name in (CONTEXT, ANSWER) if name not in table.columns]
    if CHOICES not in table.columns and len(named) < 2:
        lacking.append(f"{CHOICES} (or two columns or more whose names begin with {CHOICE})")
    if lacking:
        raise LosparseError(
            f"{table.name} must have the columns {CONTEXT}, {CHOICES} and {ANSWER} to be questions, it has "
            f"{', '.join(table.columns)}; add {' and '.join(lacking)}"
        )
    return [_question(table, row, values, named) for row, values in enumerate(table.rows)]


def _question(table: Table, row: int, values: dict[str, Any], named: Sequence[str]) -> Question:
    context = values.get(CONTEXT, "")
    if not isinstance(context, str):
        raise LosparseError(f"{table.where(row)}: '{CONTEXT}' must be a text, got {shown(context)}")
    choices = _choices(table, row, values, named)
    answer = _answer(table, row, values.get(ANSWER), choices)
    try:
        whole = tuple(table.whole(row, CHOICES, choice) for choice in choices)
        return Question(table.whole(row, CONTEXT, context), whole, answer)
    except InputError as error:
        raise LosparseError(f"{table.where(row)}: {error}") from None


def _choices(table: Table, row: int, values: dict[str, Any], named: Sequence[str]) -> list[str]:
    if CHOICES in values:
        found = values[CHOICES]
        if isinstance(found, list) and all(isinstance(each, str) for each in found):
            return found
        raise LosparseError(
            f"{table.where(row)}: '{CHOICES}' must be a list of texts, as jsonl has it, got {shown(found)}; "
            f"in csv give each choice a column: {CHOICE}0, {CHOICE}1"
        )
    found = [values.get(name) for name in named]
    present = [each for each in found if each not in (None, "")]
    if found[: len(present)] != present or not all(isinstance(each, str) for each in present):
        raise LosparseError(f"{table.where(row)}: {', '.join(named)} must be texts, the empty ones last")
    return present


def _answer(table: Table, row: int, value: Any, choices: Sequence[str]) -> int:
    if isinstance(value, str) and value in choices:
        return choices.index(value)
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(choices):
        return number
    raise LosparseError(
        f"{table.where(row)}: '{ANSWER}' must be the text of a choice, or its number in 0..{len(choices) - 1}, got "
        f"{shown(value)}"
    )
