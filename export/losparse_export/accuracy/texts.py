"""Texts of the user's: to calibrate int8-static with, and labelled ones to measure accuracy on."""

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

from ..opening.load import class_names
from ..opening.task_model import TaskModel
from ..target import CPU
from .answers import right_answers

Feeds = Mapping[str, NDArray[Any]]

# Texts that scales are measured on; of a longer file the first ones.
CALIBRATION_TEXTS = 128

_CALIBRATION_BATCH = 8
_BATCH = 32


@dataclass(frozen=True)
class TextFile:
    """Texts in a file.

    Attributes:
        file: csv, tsv, jsonl, or txt (a text a line, no labels); or a hub data set as owner/name[@config][:split].
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

    def examples(self, names: Sequence[str], task: str = "text-classification") -> Examples:
        """Read the texts with the class, or the answer, of each.

        Args:
            names: of the classes, by class id.
            task: "text-classification", or "question-answering", whose answers are of no classes.

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
        return list(_encode(session, texts, _CALIBRATION_BATCH))


def read_labelled(data: TextFile | str | Path, model: TaskModel) -> tuple[str, Examples]:
    """Read labelled texts for a model, and the name of their file.

    Raises:
        LosparseError: the model neither chooses one class a text nor answers questions, or the file does not fit it.
    """
    config, file = model.model.config, data if isinstance(data, TextFile) else TextFile(data)
    if model.task.name == "question-answering":
        return Path(file.file).name, file.examples((), model.task.name)
    single = getattr(config, "problem_type", None) in (None, "single_label_classification")
    if model.task.name != "text-classification" or not single or config.num_labels < 2:
        raise LosparseError(
            "accuracy is measured for question-answering, and text-classification with one class a text; this model "
            f"does {_said(model)}; leave data= (--data) out"
        )
    return Path(file.file).name, file.examples(class_names(config))


def _said(model: TaskModel) -> str:
    """Name a task that no accuracy is measured for, as a reader knows it."""
    if model.task.name != "text-classification":
        return model.task.name
    if getattr(model.model.config, "problem_type", None) == "multi_label_classification":
        return "text-classification with several classes a text"
    return "regression"


def measure_accuracy(
    model: TaskModel, folder: Path, labelled: tuple[str, Examples], provider: str = CPU.provider
) -> dict[str, Any]:
    """Count right answers of a PyTorch model and of the folder exported from it, on the same tokens.

    Args:
        model: the PyTorch model.
        folder: the exported folder.
        labelled: as `read_labelled` returns it.
        provider: onnxruntime's name of what runs the folder.

    Returns:
        "file", "texts" (their number), "pytorch" and "onnx" (shares of right answers, in 0..1).

    Raises:
        LosparseError: the folder has no tokenizer.
    """
    name, examples = labelled
    session = Session(folder, providers=(provider,), threads=torch.get_num_threads(), unchecked=True)
    if model.task.name == "question-answering":
        right = (sum(each) / len(each) for each in right_answers(model, session, examples))
        return {"file": name, "texts": len(examples), **dict(zip(("pytorch", "onnx"), right, strict=True))}
    texts = examples.texts if examples.pairs is None else list(zip(examples.texts, examples.pairs, strict=True))
    pytorch: list[int] = []
    onnx: list[int] = []
    with cuts_told_once():
        for feeds in _encode(session, texts, _BATCH):
            reference = model.reference({key: torch.from_numpy(array) for key, array in feeds.items()})
            pytorch += reference["logits"].argmax(-1).tolist()
            onnx += session.run(feeds)["logits"].argmax(-1).tolist()
    return {
        "file": name,
        "texts": len(texts),
        "pytorch": _share(pytorch, examples.labels),
        "onnx": _share(onnx, examples.labels),
    }


def _share(answers: Sequence[int], labels: Sequence[int]) -> float:
    return sum(answer == label for answer, label in zip(answers, labels, strict=True)) / len(labels)


def _encode(session: Session, texts: Sequence[Any], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield texts, or pairs of them, as inputs of runs."""
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
