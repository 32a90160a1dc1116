"""Texts of the user's: in files, with labels or without, and as inputs of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from losparse.data.examples import Examples
from losparse.data.loading import load_examples, load_texts
from losparse.errors import LosparseError
from losparse_runtime import Session, TokenizerError
from losparse_runtime.text.cuts import cuts_told_once

Feeds = Mapping[str, NDArray[Any]]

# Texts that scales are measured on; of a longer file the first ones.
CALIBRATION_TEXTS = 128

# Alone, so that no padding is among what is measured, and the memory is that of one text.
_CALIBRATION_BATCH = 1


@dataclass(frozen=True)
class TextFile:
    """Texts in a file.

    Attributes:
        file: csv, tsv, jsonl, or txt (a text a line, no labels); or a hub data set as `owner/name[@config][:split]`.
        text_column: column of texts; None for the usual names.
        pair_column: column of second texts; None for the usual names.
        label_column: column of labels; None for the usual names.
    """

    file: str | Path
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None

    def texts(self, task: str) -> list[Any]:
        """Read the texts, or pairs of texts, without labels.

        Raises:
            LosparseError: the file or a column is not there, or a text is empty.
        """
        texts, pairs = load_texts(
            self.file, task=task, text_column=self.text_column, pair_column=self.pair_column, split="train"
        )
        return texts if pairs is None else list(zip(texts, pairs, strict=True))

    def examples(self, names: Sequence[str] | None, task: str) -> Examples:
        """Read the texts with the label of each.

        Args:
            names: of the classes, by class id; None where labels are no classes.
            task: what they are labelled for.

        Raises:
            LosparseError: the file or a column is not there, or a text or label is not right.
        """
        columns = {"text_column": self.text_column, "pair_column": self.pair_column, "label_column": self.label_column}
        return load_examples(self.file, task=task, label_names=names, split="validation", **columns)


Calibration = TextFile | str | Path | Sequence[str] | Sequence[tuple[str, str]] | Sequence[Feeds]


def read_calibration(calibration: Calibration, task: str) -> list[Any]:
    """Read what a user calibrates with.

    Args:
        calibration: a file of texts, texts, pairs of texts, or inputs of runs as they are.
        task: what the model does.

    Returns:
        Texts, pairs of texts, or inputs of runs; of the texts the first `CALIBRATION_TEXTS`.

    Raises:
        LosparseError: the file cannot be read, or what was given is of several kinds, or nothing.
    """
    file = TextFile(calibration) if isinstance(calibration, str | Path) else calibration
    given: list[Any] = file.texts(task) if isinstance(file, TextFile) else list(file)
    kinds = {"inputs" if isinstance(each, Mapping) else type(each).__name__ for each in given}
    if len(kinds) != 1 or not kinds <= {"str", "tuple", "inputs"}:
        raise LosparseError(
            "calibration must be texts, pairs of texts or inputs of runs, all of one kind, "
            f"got {', '.join(sorted(kinds)) or 'nothing'}"
        )
    return given if kinds == {"inputs"} else given[:CALIBRATION_TEXTS]


def encode_calibration(given: Sequence[Any], folder: Path) -> list[Feeds]:
    """Turn texts into inputs of runs as an exported folder reads them; inputs of runs stay as they are.

    Texts get the prompt that the folder puts in front of them: scales are to be of what is served.

    Raises:
        LosparseError: the folder has no tokenizer.
    """
    if isinstance(given[0], Mapping):
        return list(given)
    session = Session(folder, threads=torch.get_num_threads(), unchecked=True)
    prompt = session.metadata.embedding.prompt()
    texts = [prompt + text for text in given] if prompt else given
    with cuts_told_once():
        return list(encode_texts(session, texts, _CALIBRATION_BATCH))


def encode_texts(session: Session, texts: Sequence[Any], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield texts, or pairs of them, as inputs of runs.

    Args:
        session: of an exported folder.
        texts: texts, or pairs of texts.
        size: texts in a run.

    Raises:
        LosparseError: the folder has no tokenizer.
    """
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        single = isinstance(part[0], str)
        firsts, pairs = (part, None) if single else ([text for text, _ in part], [pair for _, pair in part])
        try:
            yield session.encode(firsts, pairs)
        except TokenizerError as error:
            raise LosparseError(
                "texts need a tokenizer, and the model brings none; export from a folder that has one, or give "
                "inputs of runs to calibrate with"
            ) from error
