"""The end of a session: what is refused after it, what it waits for, and what comes back; and a session by pickle."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import losparse_runtime
from losparse_runtime import FolderError, RunError, Session
from losparse_runtime.engine.held import Held

from .conftest import file_record

MakeFolder = Callable[..., Any]
LIMIT_S = 30
FEED = {"input_ids": np.array([[4, 5]])}


class Model:
    """Stands in for onnxruntime: it answers when it is let."""

    def __init__(self) -> None:
        self.entered, self.may_leave = threading.Event(), threading.Event()

    def run(self, names: list[str], feed: object) -> list[Any]:
        self.entered.set()
        assert self.may_leave.wait(LIMIT_S)
        return [np.zeros((1, 3), np.float32) for _ in names]


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.run(FEED),
        lambda session: session.encode("a"),
        lambda session: session.classify("a"),
        lambda session: session.rank("a", ["b"]),
        lambda session: session.tag("a"),
        lambda session: session.embed("a"),
        lambda session: session.answer("a", "b"),
        lambda session: session.carried,
        pickle.dumps,
    ],
)
def test_every_call_is_refused_once_it_is_closed(make_folder: MakeFolder, call: Callable[[Session], object]) -> None:
    with Session(make_folder().path, threads=1) as session:
        assert len(session.classify("a b")) == 1 and not session.closed
    assert session.closed and session.encoder._opened is None
    with pytest.raises(RunError, match=r"made: this Session was closed; open another one$"):
        call(session)
    session.close()  # once more is no error
    assert session.providers == ("CPUExecutionProvider",) and "made" in repr(session)


def test_closing_waits_for_a_call_in_another_thread(make_folder: MakeFolder) -> None:
    session, model = Session(make_folder().path, threads=1), Model()
    session._held = Held(model, session.folder)
    answers: list[Any] = []
    running = threading.Thread(target=lambda: answers.append(session.run(FEED)["logits"].shape))
    running.start()
    assert model.entered.wait(LIMIT_S)
    closing = threading.Thread(target=session.close)
    closing.start()
    refused = threading.Event()

    def refuse() -> None:
        while not session.closed:
            pass
        with pytest.raises(RunError, match="was closed"):
            session.run(FEED)
        refused.set()

    threading.Thread(target=refuse).start()
    assert refused.wait(LIMIT_S), "a call that comes while it is closing is refused at once"
    assert closing.is_alive() and answers == []
    model.may_leave.set()
    for thread in (running, closing):
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert answers == [(1, 3)]


def test_a_call_of_several_runs_ends_before_the_session_is_closed(make_folder: MakeFolder) -> None:
    session, model = Session(make_folder().path, threads=1), Model()
    session._held = Held(model, session.folder)
    answers: list[int] = []
    running = threading.Thread(target=lambda: answers.append(len(session.classify(["a", "b", "c"], batch_size=1))))
    running.start()
    assert model.entered.wait(LIMIT_S)
    closing = threading.Thread(target=session.close)
    closing.start()
    model.may_leave.set()
    running.join(LIMIT_S)
    closing.join(LIMIT_S)
    assert answers == [3]


def test_closing_inside_a_call_is_refused_instead_of_waiting_for_itself(make_folder: MakeFolder) -> None:
    session = Session(make_folder().path, threads=1)

    class Closing:
        def run(self, names: object, feed: object) -> None:
            session.close()

    session._held = Held(Closing(), session.folder)
    with pytest.raises(RunError, match=r"close\(\) was called inside a call of the same Session; call it after$"):
        session.run(FEED)


def test_eight_threads_get_the_answers_of_one(make_folder: MakeFolder) -> None:
    session = Session(make_folder().path, threads=1)
    texts = [" ".join("abcdefg"[: 1 + i % 7]) for i in range(60)]
    expected = [session.run(session.encode(text))["logits"] for text in texts]
    results: list[Any] = [None] * 8
    start = threading.Barrier(8)

    def work(index: int) -> None:
        start.wait(LIMIT_S)
        results[index] = [session.run(session.encode(text))["logits"] for text in texts]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT_S)
    for result in results:
        np.testing.assert_array_equal(result, expected)


MEMORY = """
import sys
from pathlib import Path
from losparse_runtime import Session

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

import onnxruntime
with Session(sys.argv[2], threads=1) as session:  # what onnxruntime loads once
    session.classify("a b")
before = resident()
session = Session(sys.argv[1], threads=1)
session.classify("a b")
during = resident()
session.close()
print(before, during, resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what is resident")
def test_memory_goes_back_to_the_system(make_folder: MakeFolder) -> None:
    rows = 1_000_000
    folder = make_folder(name="large")
    model = onnx.load(folder.path / "model.onnx")
    (words,) = (each for each in model.graph.initializer if each.name == "words")
    table = np.concatenate([onnx.numpy_helper.to_array(words), np.ones((rows, 4), np.float32)])  # words nobody uses
    words.CopyFrom(onnx.numpy_helper.from_array(table, "words"))
    onnx.save(model, folder.path / "model.onnx")
    folder.edit(lambda data: data["files"].update({"model.onnx": file_record(folder.path / "model.onnx")}))
    environment = {**os.environ, "PYTHONPATH": str(Path(losparse_runtime.__file__).parents[1])}
    command = [sys.executable, "-c", MEMORY, str(folder.path), str(make_folder().path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    before, during, after = map(int, done.stdout.split())
    assert during - before > table.nbytes, "the model is resident while it is open"
    # A tenth of it may stay, in holes of the heap and as code that a run touched first.
    assert after - before < table.nbytes / 10


def test_a_pickle_is_the_path_and_the_options(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder().path
    monkeypatch.chdir(folder.parent)
    session = Session("made", threads=1, spinning=False, batch_invariant=True)
    held = pickle.dumps(session)
    assert len(held) < 1000
    monkeypatch.chdir("/")
    again = pickle.loads(held)
    assert (again.options, again.folder) == (session.options, folder)
    assert again._alone == session._alone
    np.testing.assert_array_equal(again.run(FEED)["logits"], session.run(FEED)["logits"])


def test_processes_that_are_spawned_take_a_session(make_folder: MakeFolder) -> None:
    session = Session(make_folder().path, threads=1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        (found,) = pool.submit(session.classify, ["a b"]).result(LIMIT_S)
    assert found == session.classify(["a b"])[0]


def test_a_folder_that_changed_is_no_pickled_session(make_folder: MakeFolder) -> None:
    folder = make_folder()
    held = pickle.dumps(Session(folder.path, threads=1))
    folder.edit(lambda data: data.update(fingerprint="0" * 64))
    with pytest.raises(FolderError, match=r"made: holds model 0{16}\.\.\., the pickled .* Session\(folder\)$"):
        pickle.loads(held)
