"""Folders made to lead astray: each is refused in one line, at once, and nothing outside of it is read."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from losparse.cli.main import main
from losparse_runtime import LosparseRuntimeError, Session, verify_folder
from losparse_runtime.errors import is_plain

from .conftest import MakeFolder
from .hostile import MUTATIONS
from .hostile_place import SECRET, Mutation, Place
from .test_runtime_signing import relisted

_LIMIT_S = 30
"""Far above what any of this takes; what waits for a pipe waits for ever."""


class Watch:
    """Tells which files Python opens. A hook of the interpreter cannot be taken out: there is one, which can rest."""

    def __init__(self) -> None:
        self.opened: list[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self.opened is not None and isinstance(arguments[0], str | bytes):
            self.opened.append(os.path.realpath(os.fsdecode(arguments[0])))

    @contextmanager
    def on(self) -> Iterator[list[str]]:
        self.opened = opened = []
        try:
            yield opened
        finally:
            self.opened = None


WATCH = Watch()


@pytest.fixture
def place(make_folder: MakeFolder, tmp_path: Path) -> Place:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text(SECRET)
    return Place(relisted(make_folder().path), outside)


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError("it waits for something")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextmanager
def nobody_reads(outside: Path) -> Iterator[None]:
    """Fail if something in a folder is read, by Python or by anybody else in this process.

    The system notes when a file was read last where that was before it was written last, as it is made to be here.
    """
    files = [file for file in outside.rglob("*") if file.is_file()]
    for file in files:
        os.utime(file, (1, 2))
    with WATCH.on() as opened:
        yield
    assert [path for path in opened if Path(path).is_relative_to(outside)] == []
    assert [file for file in files if file.stat().st_atime != 1] == []


def refusal(call: Callable[[], object]) -> str | None:
    """What a call refuses a folder with, None if it takes it; another error than ours fails the test."""
    try:
        call()
    except LosparseRuntimeError as error:
        assert is_plain(str(error)), "one line, without anything that cannot be seen"
        return str(error)
    return None


def use(folder: Path, **options: Any) -> None:
    with Session(folder, threads=1, **options) as session:
        session.classify(["a b"])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_a_folder_that_leads_astray(mutation: Mutation, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    mutation.make(place)
    with nobody_reads(place.outside):
        plain, verified = refusal(lambda: use(place.folder)), refusal(lambda: use(place.folder, verify=True))
        found: list[str] = []
        listed = refusal(lambda: found.extend(verify_folder(place.folder).problems))
        codes = {name: main([name, str(place.folder), *rest]) for name, rest in COMMANDS.items()}
    said = capsys.readouterr()
    assert (plain is None) == mutation.opens
    for line in (verified, plain):
        assert line is None or re.search(mutation.says, line), line
    assert verified is not None
    assert codes["run"] == (0 if mutation.opens else 2) and codes["inspect"] in (0, 2)
    refused_by_digest = listed is not None or found
    assert codes["verify"] == (2 if listed is not None else 1 if found else 0)
    assert refused_by_digest or plain is not None
    assert all(is_plain(line) for line in found)
    errors = said.err.splitlines()
    assert len(errors) == sum(code == 2 for code in codes.values())
    assert all(line.startswith("losparse: error: ") for line in errors)
    assert SECRET not in said.out + said.err


COMMANDS = {"run": ("a b",), "inspect": (), "verify": ()}


def test_there_are_enough_of_them_and_all_are_different() -> None:
    assert len(MUTATIONS) >= 50
    assert len({each.name for each in MUTATIONS}) == len(MUTATIONS)


def test_reading_is_seen(place: Place) -> None:
    """What would tell that a file outside is read does tell."""
    with pytest.raises(AssertionError), nobody_reads(place.outside):
        place.canary.read_text()
