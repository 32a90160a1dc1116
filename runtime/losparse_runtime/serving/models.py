"""The models of a server by name, and the session behind each, which may be replaced while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ..batching.batcher import Ran
from ..contract.files import METADATA_FILE
from ..contract.tensors import Arrays
from ..engine.cpus import available_cpus
from ..errors import FolderError, InputError, LosparseRuntimeError
from ..session import Session
from ..tasks.base import Work
from .errors import NotFound
from .opened import Opened
from .settings import ServeSettings

R = TypeVar("R")
Heard = Callable[[str, Ran], None]
"""Is told of every run: the model's name, and the run."""
Open = Callable[["ModelPlace", ServeSettings], Session]
_MOST_THREADS = 4
"""Of one run, where nobody says: short texts gain little from more, and what is left runs other batches meanwhile."""
_SHOWN = 12
"""Digits of a fingerprint that name a version."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is.

    Attributes:
        name: under which it is served.
        folder: an exported folder.
        variant: which form of it; None for the one that is best here.
    """

    name: str
    folder: Path
    variant: str | None = None


def parse_place(text: str) -> ModelPlace:
    """Read `DIR`, `NAME=DIR` or either with `#VARIANT` behind it; the name of a folder alone is its own.

    Raises:
        InputError: the name is empty or holds what a URL's path would not.
    """
    name, given, rest = text.partition("=")
    folder, _, variant = (rest if given else text).partition("#")
    name = name if given else Path(folder).resolve().name
    if not name or not all(each.isalnum() or each in "-_." for each in name):
        raise InputError(f"a model's name must be of letters, digits, '-', '_' and '.', got {name!r}; write NAME=DIR")
    if not folder:
        raise InputError(f"a model must be DIR or NAME=DIR, got {text!r}")
    return ModelPlace(name, Path(folder), variant or None)


def open_session(place: ModelPlace, settings: ServeSettings) -> Session:
    """Open a folder as it is served: without busy waiting, and never with answers that depend on batch-mates.

    Raises:
        LosparseRuntimeError: see `Session`.
    """
    threads = settings.threads or max(1, min(_MOST_THREADS, available_cpus() // settings.workers))
    return Session(
        place.folder,
        settings.providers,
        threads,
        batch_invariant=not settings.mixed,
        spinning=False,
        variant=place.variant,
        verify=settings.verify_key or settings.verify,
        memory=settings.memory,
    )


def _unheard(name: str, ran: Ran) -> None:
    """Tell nobody."""


class ServedModel:
    """A model under a name. Everything here but `load` and `open` is called on one event loop.

    Args:
        place: where it is.
        settings: of the server.
        pool: threads that tokenise.
        heard: is told of every run.
        open_session: opens its folder.
    """

    def __init__(
        self,
        place: ModelPlace,
        settings: ServeSettings,
        pool: Executor,
        heard: Heard = _unheard,
        open_session: Open = open_session,
    ) -> None:
        self.place = place
        self._settings = settings
        self._pool = pool
        self._heard = heard
        self._open_session = open_session
        self._current: Opened | None = None
        self._stamp: object = None
        self._refused = ""
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Under which it is served."""
        return self.place.name

    @property
    def session(self) -> Session:
        """What answers now."""
        return self._opened.session

    @property
    def version(self) -> str:
        """The first digits of the fingerprint of what answers now."""
        return self.session.metadata.fingerprint[:_SHOWN]

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return self._opened.batcher.waiting

    @property
    def ready(self) -> bool:
        """Whether it takes requests: it is open, and its queue is not full."""
        return self._current is not None and not self._current.batcher.full

    @property
    def _opened(self) -> Opened:
        assert self._current is not None, "a server opens its models before it serves"
        return self._current

    async def infer(self, inputs: Mapping[str, NDArray[Any]], *, deadline_s: float | None = None) -> Arrays:
        """Run tensors, joined with the rows of other requests.

        Args:
            inputs: by name, as `Session.run` takes them.
            deadline_s: seconds for the answer; the server's default where none are named.

        Raises:
            InputError: an input is wrong.
            BusyError: the queue is full.
            DeadlineError: the answer was not there in time.
            RunError: the model failed.
        """
        opened = self._opened
        with opened.in_use():
            return await opened.infer(dict(inputs), self._seconds(deadline_s))

    async def do(
        self, prepare: Callable[[Session], Work[R]], *, characters: int, deadline_s: float | None = None
    ) -> tuple[R, int]:
        """Do a task on texts, whose rows are joined with those of other requests.

        Args:
            prepare: tokenises the texts, for the session that is given; of long texts on a thread.
            characters: of all texts.
            deadline_s: see `infer`.

        Returns:
            The result, and the tokens of the texts.

        Raises:
            LosparseRuntimeError: see `infer`.
        """
        opened = self._opened
        with opened.in_use():
            return await opened.do(prepare, characters, self._seconds(deadline_s))

    def _seconds(self, asked: float | None) -> float:
        return self._settings.deadline_s if asked is None else min(asked, self._settings.deadline_s)

    async def load(self) -> None:
        """Open the folder for the first time.

        Raises:
            LosparseRuntimeError: it cannot be opened.
        """
        self._stamp = _stamp(self.place.folder)
        session = await asyncio.to_thread(self._open)
        self._current = self._begin(session)

    def _open(self) -> Session:
        session = self._open_session(self.place, self._settings)
        session.run(
            session.signature.counted_feeds(batch=1, length=min(8, session.max_length))
        )  # the first run is slow
        return session

    def _begin(self, session: Session) -> Opened:
        return Opened(session, self._settings, lambda ran: self._heard(self.name, ran), self._pool)

    async def refresh(self) -> bool:
        """Open the folder again if it was replaced; a folder that cannot be opened changes nothing.

        Returns:
            Whether another one answers now.
        """
        stamp = _stamp(self.place.folder)
        if stamp == self._stamp:
            return False
        try:
            session = await asyncio.to_thread(self._open)
            if session.task != self.session.task:
                raise FolderError(f"{self.place.folder}: does {session.task}, what it replaces {self.session.task}")
        except LosparseRuntimeError as error:
            # Told once; looked at again, since a folder that is being copied is broken until the last file is there.
            if str(error) != self._refused:
                logger.error("model %s: its replacement is refused, the old one goes on serving: %s", self.name, error)
            self._refused = str(error)
            return False
        old, self._current = self._opened, self._begin(session)
        self._stamp, self._refused = stamp, ""
        logger.info("model %s: version %s serves now, before %s", self.name, self.version, old.session)
        task = asyncio.create_task(old.close(self._settings.drain_s))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return True

    async def close(self) -> None:
        """Answer what is under way, then close."""
        if self._current is not None:
            await self._current.close(self._settings.drain_s)
        await asyncio.gather(*self._closing)


class ModelTable:
    """The models of a server, by name.

    Args:
        places: where they are; names must differ.
        settings: of the server.
        heard: is told of every run.
        open_session: opens a folder.

    Raises:
        InputError: there is none, or two have one name.
    """

    def __init__(
        self,
        places: Sequence[ModelPlace],
        settings: ServeSettings,
        heard: Heard = _unheard,
        open_session: Open = open_session,
    ) -> None:
        names = [place.name for place in places]
        twice = next((name for name in names if names.count(name) > 1), None)
        if not names or twice is not None:
            what = "none" if twice is None else f"{twice!r} twice"
            raise InputError(f"models must have a name each, at least one, got {what}; write NAME=DIR")
        self._settings = settings
        self._asked = asyncio.Event()
        self._pool = ThreadPoolExecutor(max(1, min(4, available_cpus())), "losparse-tokenise")
        self._models = {place.name: ServedModel(place, settings, self._pool, heard, open_session) for place in places}

    def __iter__(self) -> Iterator[ServedModel]:
        """The models, in the order in which they were given."""
        return iter(self._models.values())

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model.

        Args:
            name: of the model.
            version: which one it must be: the first digits of its fingerprint, or its variant's name; None for any.

        Raises:
            NotFound: there is none, or it is of another version.
        """
        model = self._models.get(name)
        if model is None:
            raise NotFound(f"model must be one of {', '.join(self._models)}, got {name[:100]!r}")
        if version is not None and version not in (model.version, model.session.variant):
            has = f"{model.version} ({model.session.variant})"
            raise NotFound(f"model {name} has version {has}, got {version[:100]!r}")
        return model

    @property
    def ready(self) -> bool:
        """Whether every model takes requests."""
        return all(model.ready for model in self)

    async def load(self) -> None:
        """Open all folders.

        Raises:
            LosparseRuntimeError: one cannot be opened.
        """
        for model in self:
            await model.load()

    async def refresh(self) -> None:
        """Open those folders again that were replaced."""
        for model in self:
            await model.refresh()

    def look(self) -> None:
        """Let `watch` look now."""
        self._asked.set()

    async def watch(self) -> None:
        """Look for replaced folders every `reload_s` seconds and when `look` asks, for as long as the server runs."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.reload_s or None):
                    await self._asked.wait()
            self._asked.clear()
            try:
                await self.refresh()
            except Exception:  # one bad look must not end all looking
                logger.exception("looking for replaced folders failed")

    async def close(self) -> None:
        """Answer what is under way, then close all."""
        await asyncio.gather(*(model.close() for model in self))
        self._pool.shutdown(wait=False)


def _stamp(folder: Path) -> object:
    """Return what changes when a folder is replaced: where it is, and its metadata's identity, time and size."""
    try:
        found = (folder / METADATA_FILE).stat()
    except OSError:
        return None
    return folder.resolve(), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
