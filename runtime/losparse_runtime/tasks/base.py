"""What the helpers of all tasks share: what they need of a session, texts in batches, how `losparse run` calls them.

A task on texts is `Work`: texts as tokens, what a batch's outputs say of each, and what all of them say together. Here
`do` runs it in batches, sorted by length so that little of a batch is padding; a server runs the same work beside that
of other callers. Outputs that are not finite are refused: a NaN has no largest class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract.config import ModelConfig
from ..contract.metadata import Metadata
from ..contract.progress import Advance, unheard
from ..contract.task import TASKS, TEXT_CLASSIFICATION, Task
from ..contract.tensors import MASK, Arrays
from ..errors import InputError, RunError
from ..text.encoder import TextEncoder

if TYPE_CHECKING:
    from tokenizers import Encoding

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Table:
    """What is to be printed of results.

    Attributes:
        columns: their titles; none where every row is one cell, a line for another program to read.
        rows: as many cells each as there are columns.
        left: places of the columns that are aligned left, as texts are; the others are aligned right.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: tuple[int, ...] = (0,)


class Served(Protocol):
    """What a helper needs of a `Session`."""

    @property
    def folder(self) -> Path:
        """The exported folder."""

    @property
    def task(self) -> str:
        """Name of what the model does."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by class id; None where the task has none."""

    @property
    def metadata(self) -> Metadata:
        """What `losparse.json` says of the graph and the variant that are open."""

    @property
    def config(self) -> ModelConfig:
        """What the runtime reads of `config.json`."""

    @property
    def encoder(self) -> TextEncoder:
        """From texts to tokens."""

    def feed(self, arrays: Arrays) -> Arrays:
        """The arrays that are inputs of the model."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run the model once."""


@dataclass(frozen=True)
class Work(Generic[R]):
    """A task on some texts, tokenised, of which running the model is all that is left to do.

    Attributes:
        encodings: the rows to run, in any order and in any batches.
        read: what the outputs of a batch say of its rows: takes their places among the encodings, the outputs, and the
            attention mask, (rows, sequence); returns one thing a row.
        collect: takes those things in the order of the encodings; returns the result.
    """

    encodings: Sequence[Encoding]
    read: Callable[[Sequence[int], Arrays, NDArray[Any]], Sequence[Any]]
    collect: Callable[[list[Any]], R]


def do(session: Served, work: Work[R], batch_size: int, advance: Advance = unheard) -> R:
    """Run work in batches.

    Args:
        session: what runs them.
        work: made for this session.
        batch_size: rows in one run, >= 1.
        advance: is told of rows that are done.

    Raises:
        InputError: batch_size is wrong.
        RunError: the model failed, or an output of its task is not finite.
    """
    found: dict[int, Any] = {}
    for places, outputs, mask in batches(session, work.encodings, batch_size):
        found.update(zip(places, work.read(places, outputs, mask), strict=True))
        advance(len(places))
    return work.collect([found[place] for place in range(len(work.encodings))])


@dataclass(frozen=True)
class Helper(Generic[T]):
    """How a task is done on texts, for callers that know of none by itself, as `losparse run`.

    Attributes:
        name: of the function that does it; and of the method of `Session` that does the same, where that has one.
        run: takes a session, texts, `batch_size=`, and each of `options` by its name; returns a result a text.
        table: of a task's results on texts, what is to be printed.
        options: what it takes beside the texts, as `run` calls it: "pairs" (as many as texts), "question", "query",
            "prompt", "prompt_name". One of its own needs a flag of `losparse run`, in `losparse/cli/run.py`.
        needs: the one of them that must be there; None where all may be left out.
        without: what the task does without that; None where nothing.
        by_itself: whether every text is a run by itself, so that there are no batches.
        blank: why a text without a word is refused; None where it is not.
    """

    name: str
    run: Callable[..., Sequence[T]]
    table: Callable[[Task, Sequence[T], Sequence[str]], Table]
    options: tuple[str, ...] = ()
    needs: str | None = None
    without: Helper[Any] | None = None
    by_itself: bool = False
    blank: str | None = None


def batches(
    session: Served, encodings: Sequence[Encoding], batch_size: int
) -> Iterator[tuple[list[int], Arrays, NDArray[Any]]]:
    """Run encodings, longest first; yield the places of the batch's texts, its outputs and its attention mask.

    Longest first: the largest batch comes at the start, where running out of memory costs least.

    Args:
        session: what runs them.
        encodings: one a text.
        batch_size: texts in one run, >= 1.

    Raises:
        InputError: batch_size is wrong.
        RunError: the model failed, or an output of its task is not finite.
    """
    check_count("batch_size", batch_size, 1)
    order = sorted(range(len(encodings)), key=lambda index: -len(encodings[index].ids))
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        arrays = session.encoder.arrays([encodings[index] for index in rows])
        outputs = session.run(session.feed(arrays))
        check_finite(session, rows, outputs)
        yield rows, outputs, arrays[MASK]


def check_finite(session: Served, rows: Sequence[int], outputs: Arrays) -> None:
    """Refuse outputs of a task that hold NaN or infinity.

    Args:
        session: what gave them.
        rows: the places of their texts, for the message.
        outputs: by name; (rows, ...).

    Raises:
        RunError: one does.
    """
    for name in TASKS[session.task].outputs:
        finite = np.isfinite(outputs[name]).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            worst = rows[int(finite.argmin())]
            raise RunError(
                f"{session.folder}: output {name!r} is not finite (NaN or Inf) for text {worst}; "
                "compare the folder with its source: `losparse check`"
            )


def require(session: Served, helper: str, *, does: bool | None = None) -> None:
    """Refuse a folder that a helper is not for.

    Args:
        session: of the folder.
        helper: its name.
        does: whether it is for the folder; by default it is if the folder's task says so.

    Raises:
        InputError: it is not.
    """
    own = TASKS[session.task].helper
    if own == helper if does is None else does:
        return
    if TASKS[session.task].labels == "number" and session.labels is not None and len(session.labels) > 1:
        own = TEXT_CLASSIFICATION.helper  # several numbers a text are no order of texts
    wanted = " or ".join(task.name for task in TASKS.values() if task.helper == helper)
    others = "use run" if own is None or not hasattr(session, own) else f"use {own}, or run"
    raise InputError(
        f"{helper} needs a {wanted} folder, {session.folder} is for {session.task}; {others} for the raw outputs"
    )


def class_names(session: Served) -> tuple[str, ...]:
    """Return the names of the classes, of a folder whose task has them."""
    assert session.labels is not None, "parse_folder refuses such a folder without labels"
    return session.labels


def check_count(name: str, value: int, minimum: int) -> None:
    """Refuse what is not a whole number of at least `minimum`.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise InputError(f"{name} must be a whole number >= {minimum}, got {value!r}")
