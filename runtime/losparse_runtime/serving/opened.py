"""One open folder with the threads that run it, in use until nobody needs it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..batching.batcher import Batcher, Ran
from ..batching.queue import Limits
from ..batching.rows import Job, Part, Row, may_pad, shape_key
from ..contract.signature import Signature
from ..contract.tensors import Arrays
from ..engine.cpus import available_cpus
from ..errors import DeadlineError
from ..session import Session
from ..tasks.base import Work, check_finite
from .settings import ServeSettings

R = TypeVar("R")
_INLINE_ROWS = 8
"""Rows whose results are read on the event loop; of more rows they are read by the threads that run them."""
_INLINE_CHARACTERS = 500
"""Characters that are tokenised on the event loop, in less time than handing them to a thread and back takes."""


class Opened:
    """A session and the batcher that runs it.

    Args:
        session: of a folder.
        settings: of the server.
        heard: is told of every run.
        pool: threads that tokenise.
    """

    def __init__(self, session: Session, settings: ServeSettings, heard: Callable[[Ran], None], pool: Executor) -> None:
        self.session = session
        self._settings = settings
        self._pool = pool
        self._side = session.encoder.padding_side
        self._pads = may_pad(session.signature, self._side)
        self.batcher = Batcher(
            session.run_checked,
            session.signature,
            Limits(1 if session.runs_alone else settings.max_batch, settings.max_tokens_in_batch, settings.queue),
            side=self._side,
            runners=max(1, available_cpus() // settings.workers // session.threads),
            max_wait_s=settings.max_wait_ms / 1000,
            heard=heard,
        )
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it open for a request; used on the event loop alone."""
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def infer(self, inputs: Arrays, deadline_s: float) -> Arrays:
        """Run tensors, joined with those of others; see `ServedModel.infer`."""
        checked = self.session.signature.check(inputs)
        tokens = self.session.signature.tokens_of(checked)
        rows, length = tokens.shape
        job = self._job(rows, deadline_s)
        parts = await self._run(job, self._blocks(job.job, checked, rows, length), deadline_s)
        return self._ordered(parts, length)

    async def do(self, prepare: Callable[[Session], Work[R]], characters: int, deadline_s: float) -> tuple[R, int]:
        """Tokenise and run texts, beside those of others; see `ServedModel.do`."""
        loop = asyncio.get_running_loop()
        begin = time.monotonic()
        if characters <= _INLINE_CHARACTERS:
            work = prepare(self.session)
        else:
            work = await loop.run_in_executor(self._pool, prepare, self.session)
        left_s = deadline_s - (time.monotonic() - begin)
        # Of many texts a runner reads each part: the event loop has others to read for, and outputs take memory.
        reduce = None if len(work.encodings) <= _INLINE_ROWS else partial(self._read, work)
        job = self._job(len(work.encodings), left_s, reduce)
        parts = await self._run(job, self._texts(job.job, work), left_s)
        read = parts if reduce is not None else [self._read(work, part) for part in parts]
        found = {place: said for part in read for place, said in zip(part.places, part.said or (), strict=True)}
        count = sum(len(encoding.ids) for encoding in work.encodings)
        return work.collect([found[place] for place in range(len(work.encodings))]), count

    async def close(self, drain_s: float) -> None:
        """Wait until nobody uses it, then close it.

        Args:
            drain_s: seconds after which it is closed all the same.
        """
        begin = time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        left_s = max(0.0, drain_s - (time.monotonic() - begin))
        await asyncio.to_thread(self.batcher.close, drain=True, timeout_s=left_s)
        if not self._users:  # otherwise it would wait for a run that the time was too short for
            await asyncio.to_thread(self.session.close)

    def _job(self, rows: int, deadline_s: float, reduce: Callable[[Part], Part] | None = None) -> _Awaited:
        return _Awaited(asyncio.get_running_loop(), rows, time.monotonic() + deadline_s, reduce)

    async def _run(self, awaited: _Awaited, rows: list[Row], deadline_s: float) -> list[Part]:
        """Let rows wait for their run, and wait for it too, until the deadline or until the caller is gone."""
        try:
            self.batcher.submit(rows)
            async with asyncio.timeout(deadline_s):
                await awaited.future
        except TimeoutError:
            raise DeadlineError(f"no answer within {deadline_s:.3g} s; send less at once, or allow more time") from None
        finally:
            awaited.job.given_up = True  # what still waits of it need not be run
        return awaited.job.parts

    def _blocks(self, job: Job, inputs: Arrays, rows: int, length: int) -> list[Row]:
        """Divide tensors into rows that may run together."""
        key = shape_key(self.session.signature, inputs, pads=self._pads)
        now = self.batcher.clock()
        limits = self.batcher.limits
        size = max(1, min(limits.max_batch, limits.max_tokens // max(1, length)))
        if size >= rows:
            return [Row(job, range(rows), inputs, length, key, now)]
        signature = self.session.signature
        return [
            Row(job, range(at, min(at + size, rows)), _rows(signature, inputs, slice(at, at + size)), length, key, now)
            for at in range(0, rows, size)
        ]

    def _texts(self, job: Job, work: Work[Any]) -> list[Row]:
        """Make a row of every text."""
        now, made = self.batcher.clock(), []
        for place, encoding in enumerate(work.encodings):
            length = len(encoding.ids)
            inputs = self.session.feed(self.session.encoder.arrays([encoding]))
            if len(inputs) < len(self.session.inputs):  # the tokenizer's ids are right, but an input may have a default
                inputs = self.session.signature.check(inputs)
            key = shape_key(self.session.signature, inputs, pads=self._pads)
            made.append(Row(job, range(place, place + 1), inputs, length, key, now))
        return made

    def _read(self, work: Work[Any], part: Part) -> Part:
        """Read off outputs what they say of the texts that were run."""
        check_finite(self.session, part.places, part.outputs)
        return replace(part, outputs={}, said=work.read(part.places, part.outputs, part.mask))

    def _ordered(self, parts: list[Part], length: int) -> Arrays:
        """Put what came of a job's rows in their order, without what joining padded."""
        cut = [{name: self._cut(name, array, length) for name, array in part.outputs.items()} for part in parts]
        if len(cut) == 1:
            return cut[0]
        order = np.argsort([place for part in parts for place in part.places])
        return {name: np.concatenate([each[name] for each in cut])[order] for name in cut[0]}

    def _cut(self, name: str, array: Any, length: int) -> Any:
        """Take off what joining padded."""
        if name not in self.session.signature.token_outputs or array.shape[1] == length:
            return array
        return array[:, -length:] if self._side == "left" else array[:, :length]


class _Awaited:
    """A job, and the future that its caller waits for."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, rows: int, deadline: float, reduce: Callable[[Part], Part] | None
    ) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self.job = Job(rows, deadline, self._done, reduce)

    def _done(self, job: Job) -> None:
        """Wake the caller; a runner calls it."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if self.future.done():
            return  # the caller is gone
        if self.job.error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self.job.error)


def _rows(signature: Signature, inputs: Arrays, part: slice) -> Arrays:
    return {spec.name: inputs[spec.name][part] for spec in signature.inputs}
