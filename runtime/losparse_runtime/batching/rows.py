"""What waits for the model: rows of callers' jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.signature import Signature
from ..contract.tensors import BATCH, SEQUENCE, Arrays


@dataclass(frozen=True)
class Part:
    """What a run said of some rows of a job.

    Attributes:
        places: of the job's rows.
        outputs: by name, one entry a row; padded to the longest row of the run where there is one entry a token.
        mask: which of those entries are tokens; (rows, sequence).
        said: what was read off the outputs, a thing a row, in the place of both; None where nothing was read yet.
    """

    places: Sequence[int]
    outputs: Arrays
    mask: NDArray[Any]
    said: Sequence[Any] | None = None


class Job:
    """Rows of one caller, and what came of them. A runner fills it; the caller may give it up at any time.

    Args:
        count: rows.
        deadline: by the batcher's clock, after which its rows are not run any more.
        done: is called once, by a runner, when every row is done or the job failed. It must not block.
        reduce: is called by a runner with each part, and returns what to keep of it: for jobs whose outputs would take
            much memory until the last row is done. An error that it raises is the job's.

    Attributes:
        parts: what came of the rows, in the order in which they were run.
        error: what went wrong; None where nothing did.
        given_up: whether nobody waits for it any more.
    """

    __slots__ = ("_lock", "count", "deadline", "done", "error", "given_up", "left", "parts", "reduce")

    def __init__(
        self,
        count: int,
        deadline: float,
        done: Callable[[Job], None],
        reduce: Callable[[Part], Part] | None = None,
    ) -> None:
        self.reduce = reduce
        self.count = count
        self.left = count
        self.deadline = deadline
        self.done = done
        self.parts: list[Part] = []
        self.error: Exception | None = None
        self.given_up = False
        self._lock = threading.Lock()  # several runners may have rows of one job

    def take(self, part: Part) -> bool:
        """Keep what came of some rows; returns whether that was all."""
        kept = part if self.reduce is None else self.reduce(part)
        with self._lock:
            self.parts.append(kept)
            self.left -= len(part.places)
            return self.left == 0

    def fail(self, error: Exception) -> bool:
        """Keep what went wrong; returns whether it is the first that did."""
        with self._lock:
            if self.error is not None or self.left == 0:
                return False
            self.error = error
            return True

    @property
    def dead(self) -> bool:
        """Whether its rows need not be run any more."""
        return self.given_up or self.error is not None


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Some rows of a job that are run together: one text, or a block of tensors.

    Attributes:
        job: whose they are.
        places: of the job's rows.
        inputs: by name, for every input of the model; the first axis is that of the rows.
        length: tokens of each, padding of the caller's included.
        key: only rows of one key may share a run.
        since: when they came, by the batcher's clock.
    """

    job: Job
    places: range
    inputs: Arrays
    length: int
    key: object
    since: float = field(default=0.0)


def may_pad(signature: Signature, side: str) -> bool:
    """Tell whether rows of different lengths may be padded to one without another answer.

    Padding on the left moves a text to other positions than it has alone; without a mask it is read as text; and an
    output that has the tokens on another axis than the second would keep it.
    """
    plain = all(spec.name in signature.token_outputs or SEQUENCE not in spec.shape for spec in signature.outputs)
    return side != "left" and signature.has("mask") and plain


def shape_key(signature: Signature, inputs: Arrays, *, pads: bool) -> object:
    """Return what must be equal for rows to share a run: all sizes but those of the axes that joining makes equal.

    Args:
        signature: of the model.
        inputs: of some rows.
        pads: whether rows of different lengths may be padded to one.
    """
    free = (BATCH, SEQUENCE) if pads else (BATCH,)
    return tuple(
        size
        for spec in signature.inputs
        for axis, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
        if axis not in free
    )


def join(signature: Signature, rows: Sequence[Row], side: str) -> tuple[Arrays, NDArray[Any]]:
    """Put rows into one batch, padded to the longest.

    Args:
        signature: of the model.
        rows: of one key, at least one.
        side: where short rows are filled, "left" or "right".

    Returns:
        The inputs of the run, and the mask of its tokens; (rows, sequence).
    """
    if len(rows) == 1:
        return rows[0].inputs, signature.mask_of(rows[0].inputs)
    length = max(row.length for row in rows)
    joined = {spec.name: _joined(signature, spec.name, rows, length, side) for spec in signature.inputs}
    return joined, signature.mask_of(joined)


def _joined(signature: Signature, name: str, rows: Sequence[Row], length: int, side: str) -> NDArray[Any]:
    spec = next(each for each in signature.inputs if each.name == name)
    if all(row.length == length for row in rows) or SEQUENCE not in spec.shape:
        return np.concatenate([row.inputs[name] for row in rows])
    axis = spec.shape.index(SEQUENCE)
    first = rows[0].inputs[name]
    shape = [sum(len(row.places) for row in rows), *first.shape[1:]]
    shape[axis] = length
    whole = np.full(shape, signature.vocabulary.filler if spec.role == "tokens" else 0, first.dtype)
    at = 0
    for row in rows:
        columns = slice(length - row.length, length) if side == "left" else slice(0, row.length)
        where = [slice(at, at + len(row.places)), *[slice(None)] * (len(shape) - 1)]
        where[axis] = columns
        whole[tuple(where)] = row.inputs[name]
        at += len(row.places)
    return whole
