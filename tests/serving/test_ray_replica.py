"""A replica without Ray: what its callers are told, and which rows share a run. `make test-ray` runs it on Ray."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from losparse_runtime import DeadlineError, DependencyError, FolderError, InputError, RunError, Session
from losparse_runtime.contract.tensors import Arrays
from losparse_runtime.ray_app import build
from losparse_runtime.ray_app.replica import Model, Ran, Replica, Waiting, open_model, run_rows
from losparse_runtime.ray_app.requests import plain, read_body, tensors_of
from losparse_runtime.ray_app.settings import RaySettings, parse_settings

from ..runtime.conftest import MakeFolder

T = TypeVar("T")
TEXTS = ["a b", "c d e f", "g", "a a a a a a", "b c"]
ASKED: dict[str, dict[str, Any]] = {
    "text-classification": {"texts": TEXTS},
    "multi-label-classification": {"texts": TEXTS},
    "token-classification": {"texts": TEXTS, "words": False},
    "question-answering": {"question": "a b", "context": "c d e f g a b c"},
    "regression": {"query": "a", "texts": TEXTS},
    "feature-extraction": {"texts": TEXTS, "prompt": "b "},
}
HELPERS = {
    "text-classification": "classify",
    "multi-label-classification": "classify",
    "token-classification": "tag",
    "question-answering": "answer",
    "regression": "rank",
    "feature-extraction": "embed",
}
# Sums of the same numbers in another order: a row may have been padded beside others.
CLOSE = 1e-6


class Together(Replica):
    """Collects rows for as long as the event loop has others to bring, as Ray does."""

    def __init__(self, opens: Callable[[RaySettings], Model]) -> None:
        super().__init__(opens)
        self.collected: list[int] = []
        self._waits: list[tuple[Waiting, asyncio.Future[Ran]]] = []

    async def joined(self, row: Waiting) -> Ran:
        future: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        self._waits.append((row, future))
        if len(self._waits) == 1:
            asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(self._go()))
        return await future

    async def _go(self) -> None:
        waits, self._waits = self._waits, []
        self.collected.append(len(waits))
        for (_, future), ran in zip(waits, await self.run_joined([row for row, _ in waits]), strict=True):
            if not future.done():
                future.set_result(ran)


class Counting(Session):
    """A session that keeps the shapes it was run with, and may take its time."""

    slow_s = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ran: list[tuple[int, ...]] = []

    def run_checked(self, checked: Arrays) -> Arrays:
        self.ran.append(checked["input_ids"].shape)
        time.sleep(self.slow_s)
        return super().run_checked(checked)


def counted(settings: RaySettings) -> Model:
    return Model(Counting(settings.folder, threads=1, batch_invariant=not settings.mixed), settings)


def start(settings: dict[str, Any], opens: Callable[[RaySettings], Model] = open_model) -> Together:
    replica = Together(opens)
    wait(replica.reconfigure(settings))
    return replica


def wait(answer: Awaitable[T]) -> T:
    async def scenario() -> T:
        async with asyncio.timeout(20):
            return await answer

    return asyncio.run(scenario())


def near(found: Any, wanted: Any) -> bool:
    """Whether results are equal, numbers up to rounding."""
    if isinstance(wanted, float):
        return bool(abs(found - wanted) <= CLOSE)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(near(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(near, found, wanted))
    return bool(found == wanted)


@pytest.mark.parametrize("task", ASKED)
def test_every_task_is_done_as_a_session_does_it(make_folder: MakeFolder, task: str) -> None:
    folder = make_folder(task).path
    replica = start({"folder": str(folder)})
    wanted = getattr(Session(folder, threads=1), HELPERS[task])(**ASKED[task])
    found = wait(replica.answer(ASKED[task]))
    assert near(found, {"results": plain(wanted)})
    json.dumps(found)


def test_a_regression_without_a_query_gives_numbers(make_folder: MakeFolder) -> None:
    folder = make_folder("regression").path
    found = wait(start({"folder": str(folder)}).answer({"texts": ["a b"]}))
    wanted = Session(folder, threads=1).classify(["a b"])
    assert near(found["results"][0]["score"], wanted[0].score)


def test_rows_of_all_callers_share_runs(make_folder: MakeFolder) -> None:
    replica = start({"folder": str(make_folder().path), "max_batch": 4}, counted)

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(replica.do(texts=[text, text]) for text in TEXTS))

    found = wait(scenario())
    session = Session(replica.settings.folder, threads=1)
    assert near(plain(found), [plain(session.classify([text, text])) for text in TEXTS])
    assert replica.collected == [10]
    ran = replica.model.session.ran  # type: ignore[attr-defined]  # a Counting
    assert sum(rows for rows, _ in ran) == 10 and len(ran) < 5 and max(rows for rows, _ in ran) == 4


def test_a_model_that_mixes_texts_runs_them_one_by_one(make_folder: MakeFolder) -> None:
    folder = make_folder().edit(lambda data: data.update(precision="int8", weight_bits=7)).path
    alone = start({"folder": str(folder)}, counted)
    wait(alone.do(texts=["a b", "c d"]))
    mixed = start({"folder": str(folder), "mixed": True}, counted)
    wait(mixed.do(texts=["a b", "c d"]))
    assert [model.model.session.ran for model in (alone, mixed)] == [  # type: ignore[attr-defined]
        [(1, 4), (1, 4)],
        [(2, 4)],
    ]


def test_tensors_come_back_in_their_shape(make_folder: MakeFolder) -> None:
    folder = make_folder("token-classification").path
    replica = start({"folder": str(folder)})
    short = {"input_ids": np.array([[2, 4, 3], [2, 5, 3]])}
    long = {"input_ids": np.array([[2, 4, 5, 6, 3]])}

    async def scenario() -> list[Arrays]:
        return await asyncio.gather(replica.run(short), replica.run(long))

    session = Session(folder, threads=1)
    for found, feeds in zip(wait(scenario()), (short, long), strict=True):
        np.testing.assert_allclose(found["logits"], session.run(feeds)["logits"], atol=CLOSE, rtol=0)
    body = {"inputs": {"input_ids": [[2, 4, 3], [2, 5, 3]]}}
    assert near(wait(replica.answer(body)), {"outputs": plain(session.run(short))})


def test_one_callers_nan_is_no_others(make_folder: MakeFolder) -> None:
    replica = start({"folder": str(make_folder(poison=True).path)})

    async def scenario() -> list[Any]:
        return await asyncio.gather(replica.do(texts=["a b"]), replica.do(texts=["h b"]), return_exceptions=True)

    right, wrong = wait(scenario())
    assert right[0].label in ("red", "green", "blue")
    assert isinstance(wrong, RunError) and "is not finite" in str(wrong)


class Failing(Counting):
    """A session that fails where a run has the token of "h"."""

    def run_checked(self, checked: Arrays) -> Arrays:
        if (checked["input_ids"] == 11).any():
            raise RunError("the model failed") if len(checked["input_ids"]) == 1 else ValueError("unheard of")
        return super().run_checked(checked)


def test_one_callers_failure_is_no_others(make_folder: MakeFolder) -> None:
    settings = {"folder": str(make_folder().path)}
    replica = start(settings, lambda settings: Model(Failing(settings.folder, threads=1), settings))

    async def scenario() -> list[Any]:
        return await asyncio.gather(replica.do(texts=["a b"]), replica.do(texts=["h b"]), return_exceptions=True)

    right, wrong = wait(scenario())
    assert right[0].label in ("red", "green", "blue") and str(wrong) == "the model failed"


def test_a_caller_that_gave_up_costs_no_run(make_folder: MakeFolder) -> None:
    replica = start({"folder": str(make_folder().path), "deadline_s": 0.01}, counted)

    async def scenario() -> None:
        with pytest.raises(DeadlineError, match=r"no answer within 0\.01 s"):
            await replica.do(texts=["a b"])
        while not replica.collected:
            await asyncio.sleep(0.001)

    wait(scenario())
    assert replica.model.session.ran == []  # type: ignore[attr-defined]


def test_another_folder_takes_over_and_a_broken_one_does_not(make_folder: MakeFolder, tmp_path: Path) -> None:
    old, new = make_folder(name="old").path, make_folder(name="new", seed=1).path
    replica = start({"folder": str(old)})
    wanted = {folder: plain(Session(folder, threads=1).classify(["a b"])) for folder in (old, new)}

    async def scenario() -> list[Any]:
        before = asyncio.ensure_future(replica.do(texts=["a b"]))
        await asyncio.sleep(0)  # it has the old session, and waits for its run
        for wrong, words in (({"folder": str(tmp_path / "none")}, "no such folder"), ({"max_batch": 0}, "max_batch")):
            await replica.reconfigure({"folder": str(new), **wrong})
            assert replica.refused is not None and words in replica.refused
            assert replica.settings.folder == str(old)
        during = asyncio.ensure_future(replica.do(texts=["a b"]))
        await asyncio.sleep(0)
        await replica.reconfigure({"folder": str(new)})
        assert replica.refused is None
        return [plain(await before), plain(await during), plain(await replica.do(texts=["a b"]))]

    assert near(wait(scenario()), [wanted[old], wanted[old], wanted[new]])


def test_a_replica_that_never_had_a_folder_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no such folder"):
        start({"folder": str(tmp_path / "none")})


def test_rows_of_two_folders_do_not_share_a_run(make_folder: MakeFolder) -> None:
    settings = [RaySettings(str(make_folder(name=name, seed=seed).path)) for seed, name in enumerate(("one", "two"))]
    replicas = [start(each.to_dict(), counted) for each in settings]
    rows: list[Waiting] = []

    async def keep(row: Waiting) -> Ran:
        rows.append(row)
        return run_rows([row])[0]

    for replica in replicas:
        replica.joined = keep  # type: ignore[method-assign]
        wait(replica.do(texts=["a b"]))
        replica.model.session.ran.clear()  # type: ignore[attr-defined]
    for row in rows:
        row.row.job.given_up = False
    assert len(run_rows(rows)) == 2
    assert [replica.model.session.ran for replica in replicas] == [[(1, 4)], [(1, 4)]]  # type: ignore[attr-defined]


def test_a_replica_whose_session_is_closed_or_whose_run_does_not_end_is_ill(make_folder: MakeFolder) -> None:
    replica = start({"folder": str(make_folder().path)})
    replica.check_health()
    replica._began = time.monotonic() - 61
    with pytest.raises(RunError, match="has not ended for 60 s"):
        replica.check_health()
    replica._began = None
    replica.model.session.close()
    with pytest.raises(RunError, match="the session is closed"):
        replica.check_health()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body must be JSON"),
        (b"\xff", "the body must be JSON"),
        (b"[" * 100_000, "the body must be JSON"),
        (b"[]", "the body must be an object"),
        (b'{"text": ["a"]}', "classify takes texts, and may take pairs; got text"),
        (b'{"texts": ["a"], "words": true}', "classify takes texts, and may take pairs; got texts, words"),
        (b"{}", "got nothing"),
        (b'{"texts": [1]}', "texts must hold strings only"),
        (b'{"inputs": 1}', "must be an object of lists"),
        (b'{"inputs": {}, "texts": []}', "stand alone"),
        (b'{"inputs": {"input_ids": [[1], [1, 2]]}}', "lists of numbers of one length"),
        (b'{"inputs": {"input_ids": [[1.5]]}}', "of type int64"),
        (b'{"inputs": {"input_ids": [["a"]]}}', "lists of numbers"),
        (b'{"inputs": {"input_ids": [[1]], "others": [[1]]}}', "others"),
        (b'{"inputs": {"input_ids": [[99]]}}', "input_ids"),
        (b'{"inputs": {"input_ids": [[1e400]]}}', "of type int64"),
        (b'{"inputs": {"input_ids": [[123456789012345678901]]}}', "input_ids"),
    ],
)
def test_wrong_bodies(make_folder: MakeFolder, body: bytes, words: str) -> None:
    replica = start({"folder": str(make_folder().path)})

    async def scenario() -> Any:
        return await replica.answer(read_body(body))

    with pytest.raises(InputError, match=words):
        wait(scenario())


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        ("text-classification", {"texts": ["a"] * 4}),
        ("text-classification", {"inputs": {"input_ids": [[2, 3]] * 4}}),
        ("question-answering", {"question": "a", "context": "a b c d e f g " * 20}),
    ],
)
def test_a_request_of_too_many_rows_is_refused(make_folder: MakeFolder, task: str, asked: dict[str, Any]) -> None:
    replica = start({"folder": str(make_folder(task).path), "max_texts": 3}, counted)
    with pytest.raises(InputError, match=r"at most 3 texts, windows of a context or rows, got \d+; send less"):
        wait(replica.answer(asked))
    assert replica.model.session.ran == []  # type: ignore[attr-defined]  # a Counting


def test_tensors_have_the_types_of_the_model(make_folder: MakeFolder) -> None:
    session = open_model(RaySettings(str(make_folder().path))).session
    arrays = tensors_of(session, {"inputs": {"input_ids": [[2, 3]]}})
    assert arrays is not None and arrays["input_ids"].dtype == np.int64
    assert tensors_of(session, {"texts": []}) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "folder must be given"),
        ({"folder": ""}, "folder must be a text"),
        ({"folder": "f", "max_batches": 3}, "no setting 'max_batches'; did you mean max_batch"),
        ({"folder": "f", "cpus": "two"}, "cpus must be a whole number, got 'two'"),
        ({"folder": "f", "cpus": 0}, "cpus must be a whole number >= 1, got 0"),
        ({"folder": "f", "mixed": "yes"}, "mixed must be true or false, got 'yes'"),
        ({"folder": "f", "min_replicas": 3, "max_replicas": 2}, r"max_replicas must be >= min_replicas \(3\), got 2"),
        ({"folder": "f", "deadline_s": "0"}, "deadline_s must be a number of seconds above 0"),
    ],
)
def test_wrong_settings(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_settings(given)


def test_settings_from_a_command_line() -> None:
    texts = {"folder": "f", "cpus": "2", "max_wait_ms": "0.5", "mixed": "true", "variant": "int8", "max_replicas": "4"}
    settings = RaySettings("f", cpus=2, max_wait_ms=0.5, mixed=True, variant="int8", max_replicas=4)
    assert parse_settings(texts) == settings == parse_settings(settings.to_dict())


def test_without_ray_one_line_says_what_to_install() -> None:
    assert importlib.util.find_spec("ray") is None, "this environment has Ray; the line is for those that have not"
    with pytest.raises(DependencyError, match=r"pip install 'ray\[serve\]'"):
        build({"folder": "f"})
