"""A model under a name: queues that are full, deadlines, callers that are gone, and folders that are replaced."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from losparse_runtime import BusyError, DeadlineError, InputError, Session
from losparse_runtime.engine.cpus import available_cpus
from losparse_runtime.serving.errors import NotFound
from losparse_runtime.serving.models import ModelPlace, ModelTable, open_session, parse_place
from losparse_runtime.serving.settings import ServeSettings
from losparse_runtime.tasks.classify import classify_work

from ..runtime.conftest import MakeFolder

LONG = 20.0  # seconds, that nothing here takes


class Slow(Session):
    """A session whose runs wait at a door."""

    def __init__(self, place: ModelPlace, settings: ServeSettings) -> None:
        super().__init__(place.folder, threads=available_cpus())  # so that one runner has them all
        self.door = threading.Event()
        self.entered = threading.Semaphore(0)
        self.rows: list[int] = []

    def run_checked(self, checked: Any) -> Any:
        if threading.current_thread().name.startswith("losparse-runner"):
            self.rows.append(len(checked["input_ids"]))
            self.entered.release()
            assert self.door.wait(LONG)
        return super().run_checked(checked)


@asynccontextmanager
async def serving(
    folder: Path, open_session: Callable[..., Session] = open_session, **settings: Any
) -> AsyncIterator[ModelTable]:
    """Models of one folder, open."""
    chosen = ServeSettings(**{"threads": 1, **settings})
    table = ModelTable([ModelPlace("made", folder)], chosen, open_session=open_session)
    await table.load()
    try:
        yield table
    finally:
        for model in table:
            if isinstance(model.session, Slow):
                model.session.door.set()
        await table.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not true():
            await asyncio.sleep(0.001)


def ids(*tokens: int) -> dict[str, Any]:
    return {"input_ids": np.array([tokens], np.int64)}


def test_a_full_queue_refuses_what_comes_and_loses_nothing(make_folder: MakeFolder) -> None:
    async def scenario() -> None:
        async with serving(make_folder().path, Slow, queue=2, max_batch=1) as table:
            model = table.get("made")
            session = model.session
            assert isinstance(session, Slow)
            running = asyncio.ensure_future(model.infer(ids(2, 4)))
            await until(lambda: bool(session.rows))
            waiting = [asyncio.ensure_future(model.infer(ids(2, token))) for token in (5, 6)]
            await until(lambda: model.waiting == 2)
            assert not model.ready and not table.ready
            with pytest.raises(BusyError) as refused:
                await model.infer(ids(2, 7))
            assert refused.value.retry_after_s >= 1
            session.door.set()
            answers = [await each for each in (running, *waiting)]
            for token, answer in zip((4, 5, 6), answers, strict=True):
                np.testing.assert_allclose(answer["logits"], session.run(ids(2, token))["logits"], rtol=1e-6)
            assert table.ready

    asyncio.run(scenario())


def test_a_late_answer_is_an_error_and_what_waits_of_it_is_not_run(make_folder: MakeFolder) -> None:
    async def scenario() -> None:
        async with serving(make_folder().path, Slow, max_batch=1) as table:
            model = table.get("made")
            session = model.session
            assert isinstance(session, Slow)
            running = asyncio.ensure_future(model.infer(ids(2, 4)))
            await until(lambda: bool(session.rows))
            with pytest.raises(DeadlineError, match="no answer within"):
                await model.infer(ids(2, 5), deadline_s=0.01)
            session.door.set()
            await running
            await model.infer(ids(2, 6))
            assert session.rows == [1, 1]

    asyncio.run(scenario())


def test_what_nobody_waits_for_is_not_run(make_folder: MakeFolder) -> None:
    async def scenario() -> None:
        async with serving(make_folder().path, Slow, max_batch=1) as table:
            model = table.get("made")
            session = model.session
            assert isinstance(session, Slow)
            running = asyncio.ensure_future(model.infer(ids(2, 4)))
            await until(lambda: bool(session.rows))
            gone = asyncio.ensure_future(model.do(lambda session: classify_work(session, ["a", "b"]), characters=2))
            await until(lambda: model.waiting == 2)
            gone.cancel()
            await asyncio.wait([gone])
            session.door.set()
            await running
            await model.infer(ids(2, 6))
            assert session.rows == [1, 1]

    asyncio.run(scenario())


def test_tensors_of_several_lengths_keep_their_shapes(make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction")

    async def scenario() -> None:
        async with serving(folder.path, max_tokens_in_batch=8) as table:
            model = table.get("made")
            asked = [
                np.arange(2, 2 + length)[None].repeat(rows, axis=0) % 12 for rows, length in ((1, 3), (5, 4), (2, 9))
            ]
            answers = await asyncio.gather(*(model.infer({"input_ids": each}) for each in asked))
            for given, answer in zip(asked, answers, strict=True):
                wanted = model.session.run({"input_ids": given})["last_hidden_state"]
                assert answer["last_hidden_state"].shape == wanted.shape
                np.testing.assert_allclose(answer["last_hidden_state"], wanted, rtol=1e-6)

    asyncio.run(scenario())


def test_wrong_tensors_are_refused_before_they_wait(make_folder: MakeFolder) -> None:
    async def scenario() -> None:
        async with serving(make_folder().path) as table:
            with pytest.raises(InputError, match="input_ids"):
                await table.get("made").infer({"input_ids": np.array([[999]])})

    asyncio.run(scenario())


def replace(folder: Path, by: Path) -> None:
    """Put another folder in the place of one, as a deployment does: by a link that changes at once."""
    link = folder.with_suffix(".next")
    link.symlink_to(by, target_is_directory=True)
    os.replace(link, folder)


def test_a_replaced_folder_answers_and_no_request_is_lost(make_folder: MakeFolder, tmp_path: Path) -> None:
    old, new = make_folder(name="old", seed=1), make_folder(name="new", seed=2)
    new.edit(lambda data: data.update(fingerprint="f" * 64))  # of the metadata alone: such a folder is refused
    place = tmp_path / "served"
    place.symlink_to(old.path, target_is_directory=True)
    good = make_folder(name="good", seed=2)

    async def scenario() -> None:
        async with serving(place, Slow) as table:
            model = table.get("made")
            before = model.session
            assert isinstance(before, Slow)
            running = asyncio.ensure_future(model.infer(ids(2, 4)))
            await until(lambda: bool(before.rows))
            waiting = asyncio.ensure_future(model.infer(ids(2, 5)))
            await until(lambda: model.waiting == 1)
            replace(place, new.path)
            assert not await model.refresh()  # refused: its model is another than its metadata says
            assert model.session is before
            replace(place, good.path)
            assert await model.refresh()
            after = model.session
            assert isinstance(after, Slow) and after is not before
            after.door.set()
            np.testing.assert_allclose(
                (await model.infer(ids(2, 4)))["logits"],
                Session(good.path, threads=1).run(ids(2, 4))["logits"],
                rtol=1e-6,
            )
            before.door.set()
            first = Session(old.path, threads=1)
            for answer, token in ((await running, 4), (await waiting, 5)):
                np.testing.assert_allclose(answer["logits"], first.run(ids(2, token))["logits"], rtol=1e-6)
            assert not await model.refresh()  # nothing changed since

    asyncio.run(scenario())


def test_a_broken_replacement_is_told_of_once_and_taken_when_it_is_whole(
    make_folder: MakeFolder, tmp_path: Path, caplog: Any
) -> None:
    folder, good = make_folder(), make_folder(name="good", seed=3)

    async def scenario() -> None:
        async with serving(folder.path) as table:
            model = table.get("made")
            (folder.path / "losparse.json").write_text("{")
            assert not await model.refresh()
            assert not await model.refresh()
            assert caplog.text.count("its replacement is refused") == 1
            assert "logits" in await model.infer(ids(2, 4))
            for file in good.path.iterdir():
                shutil.copy(file, folder.path / file.name)
            assert await model.refresh()

    asyncio.run(scenario())


def test_a_replacement_of_another_task_is_refused(make_folder: MakeFolder, tmp_path: Path, caplog: Any) -> None:
    place = tmp_path / "served"
    place.symlink_to(make_folder().path, target_is_directory=True)
    other = make_folder("token-classification", name="other")

    async def scenario() -> None:
        async with serving(place) as table:
            replace(place, other.path)
            assert not await table.get("made").refresh()
            assert "does token-classification, what it replaces text-classification" in caplog.text

    asyncio.run(scenario())


def test_a_look_is_taken_when_somebody_asks(make_folder: MakeFolder, tmp_path: Path) -> None:
    place = tmp_path / "served"
    place.symlink_to(make_folder().path, target_is_directory=True)
    other = make_folder(name="other", seed=3)

    async def scenario() -> None:
        table = ModelTable([ModelPlace("made", place)], ServeSettings(threads=1, reload_s=0))
        await table.load()
        watching = asyncio.create_task(table.watch())
        before = table.get("made").session
        replace(place, other.path)
        table.look()
        async with asyncio.timeout(LONG):
            while table.get("made").session is before:
                await asyncio.sleep(0.01)
        watching.cancel()
        await table.close()

    asyncio.run(scenario())


def test_versions_are_fingerprints_or_variants(make_folder: MakeFolder) -> None:
    async def scenario() -> None:
        async with serving(make_folder().path) as table:
            model = table.get("made")
            assert table.get("made", model.version) is table.get("made", "fp32") is model
            with pytest.raises(NotFound, match=r"model made has version .* \(fp32\), got '2'"):
                table.get("made", "2")

    asyncio.run(scenario())


def test_places_are_read_from_words(tmp_path: Path) -> None:
    assert parse_place(f"{tmp_path}/small-onnx") == ModelPlace("small-onnx", tmp_path / "small-onnx")
    assert parse_place("a.b=x/y#int8") == ModelPlace("a.b", Path("x/y"), "int8")
    for wrong in ("=x", "a/b=x", "a="):
        with pytest.raises(InputError, match="NAME=DIR"):
            parse_place(wrong)


def test_two_models_of_one_name_are_refused() -> None:
    places = [ModelPlace("a", Path("x")), ModelPlace("a", Path("y"))]
    with pytest.raises(InputError, match="'a' twice"):
        ModelTable(places, ServeSettings())
    with pytest.raises(InputError, match="got none"):
        ModelTable([], ServeSettings())


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"port": 70000}, "port must be in 0..65535, got 70000"),
        ({"workers": 0}, "workers must be a number >= 1, got 0"),
        ({"deadline_s": float("nan")}, "deadline_s must be a number of seconds above 0, got nan"),
        ({"token": "two words"}, "token must be ASCII without spaces"),
        ({"queue": True}, "queue must be a number >= 1, got True"),
    ],
)
def test_settings_are_checked_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ServeSettings(**settings)


@pytest.mark.parametrize("memory", ["flat", "fast"])
def test_models_are_opened_with_the_memory_that_is_set(make_folder: MakeFolder, memory: str) -> None:
    settings = ServeSettings() if memory == "flat" else ServeSettings(memory=memory)  # flat is the default
    with open_session(ModelPlace("made", make_folder().path), settings) as session:
        assert session.options.memory == memory
    with pytest.raises(InputError, match=r"^memory must be one of fast, flat, got 'small'$"):
        ServeSettings(memory="small")
