"""A session that many callers share: texts of all of them run together. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batching.queue import Limits, RowQueue
from ..batching.rows import Job, Part, Row, join, may_pad, shape_key
from ..contract.tensors import Arrays
from ..errors import DeadlineError, LosparseRuntimeError, RunError, one_line
from ..session import Session
from ..tasks.base import check_finite
from .requests import check_rows, plain, prepare, tensors_of
from .settings import RaySettings, parse_settings

_STUCK_S = 60.0
"""Seconds after which a run will not end any more."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A session, and the settings it was opened with."""

    session: Session
    settings: RaySettings

    @cached_property
    def limits(self) -> Limits:
        """Of one run."""
        most = 1 if self.session.runs_alone else self.settings.max_batch
        return Limits(most, self.settings.max_tokens_in_batch)

    @cached_property
    def pads(self) -> bool:
        """Whether texts of different lengths may share a run."""
        return may_pad(self.session.signature, self.session.encoder.padding_side)


def open_model(settings: RaySettings) -> Model:
    """Open a folder as a replica serves it: without busy waiting, and never with answers that hang on batch-mates.

    Raises:
        LosparseRuntimeError: see `Session`.
    """
    session = Session(
        settings.folder,
        threads=settings.cpus,
        batch_invariant=not settings.mixed,
        spinning=False,
        variant=settings.variant,
    )
    session.run(session.signature.counted_feeds(batch=1, length=min(8, session.max_length)))  # the first one is slow
    return Model(session, settings)


@dataclass(frozen=True, eq=False)
class Waiting:
    """A row, and the model it is for: tokens of one folder say nothing to another."""

    model: Model
    row: Row


Ran = Part | LosparseRuntimeError


def run_rows(waiting: Sequence[Waiting]) -> list[Ran]:
    """Run rows of many callers in few runs, by length and within the limits of their model.

    Returns:
        For every row what came of it, or what went wrong. A row whose caller has given up is not run.
    """
    found: dict[int, Ran] = {}
    for model in dict.fromkeys(each.model for each in waiting):
        queue = RowQueue(model.limits)
        rows = [each.row for each in waiting if each.model is model]
        for row in rows:
            if row.job.dead:
                found[id(row)] = DeadlineError("nobody waits for the answer any more")
        left = [row for row in rows if not row.job.dead]
        if left:
            queue.put(left)
        while len(queue):
            found |= _run(model, queue.take())
    return [found[id(each.row)] for each in waiting]


def _run(model: Model, rows: list[Row]) -> dict[int, Ran]:
    """Run rows at once; where that fails, each by itself, so that only the one at fault fails."""
    try:
        inputs, mask = join(model.session.signature, rows, model.session.encoder.padding_side)
        outputs = model.session.run_checked(inputs)
    except Exception as error:  # others' requests must not fail of it, and a replica must not end
        if len(rows) > 1:
            return {place: ran for row in rows for place, ran in _run(model, [row]).items()}
        if isinstance(error, LosparseRuntimeError):
            return {id(rows[0]): error}
        logger.exception("a run failed in an unexpected way")
        return {id(rows[0]): RunError(f"the run failed: {one_line(error)}")}
    parts: dict[int, Ran] = {}
    for place, row in enumerate(rows):
        own = slice(place, place + 1)
        parts[id(row)] = Part(row.places, {name: array[own] for name, array in outputs.items()}, mask[own])
    return parts


Joined = Callable[[Waiting], Awaitable[Ran]]
"""Runs a row beside those of others."""


class Replica:
    """Answers requests on texts and tensors with one session.

    Nothing is open until `reconfigure` is called with the settings, which is what Ray does first.

    Args:
        opens: opens a folder.

    Attributes:
        refused: why the newest settings were not taken; None where they were.
    """

    def __init__(self, opens: Callable[[RaySettings], Model] = open_model) -> None:
        self._opens = opens
        self._current: Model | None = None
        self._began: float | None = None
        self.refused: str | None = None

    @property
    def model(self) -> Model:
        """What answers now."""
        assert self._current is not None, "a replica is configured before it is asked"
        return self._current

    @property
    def settings(self) -> RaySettings:
        """Of what answers now."""
        return self.model.settings

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take settings: another folder is opened before the one that answers is let go.

        What cannot be taken is told once in the log, and by `refused`; the old folder goes on answering. An error would
        make Ray stop the replica, and the next one could not open the folder either.

        Args:
            config: as `RaySettings.to_dict` gives them.

        Raises:
            LosparseRuntimeError: a setting is wrong, or the folder cannot be opened, and there is no old one.
        """
        try:
            settings = parse_settings(config)
            if self._current is None or settings != self.settings:
                self._current = await asyncio.to_thread(self._opens, settings)
                logger.info("serves %s now; %s", self.model.session, self.model.session.choice)
            self.refused = None
        except LosparseRuntimeError as error:
            if self._current is None:
                raise
            self.refused = " ".join(str(error).split())
            logger.error("the new settings are refused, the old ones go on serving: %s", self.refused)

    async def do(self, **asked: Any) -> Any:
        """Do the task of the folder on texts.

        Args:
            asked: as the helper of its task has them: texts= for most.

        Returns:
            What the helper of `Session` returns.

        Raises:
            InputError: an argument is wrong.
            DeadlineError: the answer was not there in time.
            RunError: the model failed, or its outputs are not finite.
        """
        model = self.model
        begin = time.monotonic()
        work = await asyncio.to_thread(prepare, model.session, asked, model.settings.max_texts)
        feeds = [model.session.feed(model.session.encoder.arrays([encoding])) for encoding in work.encodings]
        parts = await self._rows(model, feeds, begin)
        found: list[Any] = []
        for part in parts:
            check_finite(model.session, part.places, part.outputs)
            found.extend(work.read(part.places, part.outputs, part.mask))
        return work.collect(found)

    async def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run tensors; see `Session.run`, also for the errors, and `do`."""
        model = self.model
        signature = model.session.signature
        checked = signature.check(inputs)
        rows, length = signature.tokens_of(checked).shape
        check_rows(rows, model.settings.max_texts)
        feeds = [signature.cut(checked, row, slice(0, length)) for row in range(rows)]
        parts = await self._rows(model, feeds, time.monotonic())
        per_token = signature.token_outputs
        return {
            name: np.concatenate(
                [part.outputs[name][:, :length] if name in per_token else part.outputs[name] for part in parts]
            )
            for name in parts[0].outputs
        }

    async def _rows(self, model: Model, feeds: Sequence[Arrays], begin: float) -> list[Part]:
        """Let rows run beside those of others, and wait for all."""
        signature = model.session.signature
        left_s = model.settings.deadline_s - (time.monotonic() - begin)
        job = Job(len(feeds), time.monotonic() + left_s, lambda _: None)
        rows = []
        for place, feed in enumerate(feeds):
            inputs = signature.check(feed)
            length = signature.tokens_of(inputs).shape[1]
            key = shape_key(signature, inputs, pads=model.pads)
            rows.append(Waiting(model, Row(job, range(place, place + 1), inputs, length, key, time.monotonic())))
        try:
            async with asyncio.timeout(left_s):
                found = await asyncio.gather(*(self.joined(row) for row in rows))
        except TimeoutError:
            raise DeadlineError(
                f"no answer within {model.settings.deadline_s:.3g} s; send less at once, or allow more time"
            ) from None
        finally:
            job.given_up = True  # what still waits of it need not be run
        parts = []
        for each in found:
            if isinstance(each, LosparseRuntimeError):
                raise each
            parts.append(each)
        return parts

    async def joined(self, row: Waiting) -> Ran:
        """Run a row; what has others to run it with overrides this."""
        return (await self.run_joined([row]))[0]

    async def run_joined(self, waiting: list[Waiting]) -> list[Ran]:
        """Run what waits, by a thread: the event loop goes on taking requests, which make up the next batch."""
        self._began = time.monotonic()
        try:
            return await asyncio.to_thread(run_rows, waiting)
        finally:
            self._began = None

    def check_health(self) -> None:
        """Say that this replica must be replaced.

        Raises:
            RunError: its session is closed, or a run does not end.
        """
        if self.model.session.closed:
            raise RunError(f"{self.settings.folder}: the session is closed")
        if self._began is not None and time.monotonic() - self._began > _STUCK_S:
            raise RunError(f"{self.settings.folder}: a run has not ended for {_STUCK_S:g} s")

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the body of an HTTP request, as JSON values; see `do` and `run`."""
        tensors = tensors_of(self.model.session, body)
        if tensors is not None:
            return {"outputs": plain(await self.run(tensors))}
        return {"results": plain(await self.do(**body))}
