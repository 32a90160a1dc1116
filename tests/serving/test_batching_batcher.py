"""Runner threads: what shares a run, what fails, and what is left undone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from losparse_runtime import BusyError, DeadlineError, InputError, RunError, Signature, TensorSpec
from losparse_runtime.batching.batcher import Batcher, Ran
from losparse_runtime.batching.queue import Limits
from losparse_runtime.batching.rows import Job, Row, join

LONG = 20.0  # seconds; nothing here takes any: a test that reaches it has failed

TOKENS = ("batch", "sequence")
SIGNATURE = Signature(
    (TensorSpec("input_ids", "int64", TOKENS, "tokens"), TensorSpec("attention_mask", "int64", TOKENS, "mask")),
    (TensorSpec("sums", "int64", ("batch",)), TensorSpec("each", "int64", TOKENS)),
)


def sums(inputs: dict[str, Any]) -> dict[str, Any]:
    """A model: the sum of a row's tokens, and each of them."""
    masked = inputs["input_ids"] * inputs["attention_mask"]
    return {"sums": masked.sum(axis=1), "each": masked}


class Gated:
    """A model that waits at its door, and keeps the shapes of its runs."""

    def __init__(self) -> None:
        self.door = threading.Event()
        self.entered = threading.Semaphore(0)
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.shapes.append(inputs["input_ids"].shape)
        self.entered.release()
        assert self.door.wait(LONG)
        return sums(inputs)


class Asked:
    """A job of one row a text, and an event that says when it is done."""

    def __init__(self, *texts: list[int], deadline: float = 1e9, since: float = 0.0) -> None:
        self.told = threading.Event()
        self.job = Job(len(texts), deadline, lambda job: self.told.set())
        self.rows = []
        for place, ids in enumerate(texts):
            inputs = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
            self.rows.append(Row(self.job, range(place, place + 1), inputs, len(ids), None, since))

    def answers(self) -> list[int]:
        assert self.told.wait(LONG)
        assert self.job.error is None
        found = {p: int(v) for part in self.job.parts for p, v in zip(part.places, part.outputs["sums"], strict=True)}
        return [found[place] for place in range(self.job.count)]

    def error(self) -> Exception:
        assert self.told.wait(LONG)
        assert self.job.error is not None
        return self.job.error


@pytest.fixture
def start() -> Iterator[Callable[..., Batcher]]:
    """Start a batcher: `start(run, limits, ...)`; it is closed in the end."""
    started: list[Batcher] = []

    def make(run: Callable[[Any], Any], limits: Limits | None = None, **options: Any) -> Batcher:
        started.append(Batcher(run, SIGNATURE, limits or Limits(), **options))
        return started[-1]

    yield make
    for batcher in started:
        batcher.close(drain=False, timeout_s=LONG)


def test_a_lone_caller_is_answered_at_once(start: Callable[..., Batcher]) -> None:
    asked = Asked([1, 2, 3])
    start(sums).submit(asked.rows)
    assert asked.answers() == [6]


def test_rows_that_come_during_a_run_share_the_next(start: Callable[..., Batcher]) -> None:
    model = Gated()
    batcher = start(model)
    first, *others = [Asked([number] * (number + 1)) for number in range(5)]
    batcher.submit(first.rows)
    assert model.entered.acquire(timeout=LONG)
    for asked in others:
        batcher.submit(asked.rows)
    assert batcher.waiting == 4
    model.door.set()
    assert [asked.answers() for asked in (first, *others)] == [[0], [2], [6], [12], [20]]
    assert model.shapes == [(1, 1), (4, 5)]


def test_every_run_is_told_of(start: Callable[..., Batcher]) -> None:
    heard: list[Ran] = []
    asked = Asked([1, 2, 3], [4])
    start(sums, heard=heard.append).submit(asked.rows)
    assert asked.answers() == [6, 4]
    assert [(ran.rows, ran.tokens) for ran in heard] == [(2, 6)]


def test_an_idle_runner_waits_for_mates_where_it_may(start: Callable[..., Batcher]) -> None:
    model = Gated()
    model.door.set()
    # The clock stands, so that the wait never ends by itself: the second row fills the batch and ends it.
    batcher = start(model, Limits(max_batch=2), max_wait_s=1.0, clock=lambda: 0.0)
    one, two = Asked([1]), Asked([2])
    batcher.submit(one.rows)
    batcher.submit(two.rows)
    assert (one.answers(), two.answers()) == ([1], [2])
    assert model.shapes == [(2, 1)]


def test_only_the_job_at_fault_fails(start: Callable[..., Batcher]) -> None:
    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        if (inputs["input_ids"] == 13).any():
            raise RunError("13 is not liked here")
        return sums(inputs)

    model = Gated()
    batcher = start(lambda inputs: (model(inputs), run(inputs))[1])
    first, good, bad, other = Asked([1]), Asked([2]), Asked([13]), Asked([3])
    for asked in (first, good, bad, other):
        batcher.submit(asked.rows)
    model.door.set()
    assert [asked.answers() for asked in (first, good, other)] == [[1], [2], [3]]
    assert "13 is not liked" in str(bad.error())


def test_a_runner_outlives_what_nobody_expected(start: Callable[..., Batcher], caplog: Any) -> None:
    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"sums": [][1]} if (inputs["input_ids"] == 0).any() else sums(inputs)

    batcher = start(run)
    bad, good = Asked([0]), Asked([5])
    batcher.submit(bad.rows)
    assert str(bad.error()) == "the run failed: list index out of range"
    batcher.submit(good.rows)
    assert good.answers() == [5]
    assert "a run failed in an unexpected way" in caplog.text


def test_late_rows_are_answered_without_a_run(start: Callable[..., Batcher]) -> None:
    model = Gated()
    now = [0.0]
    batcher = start(model, clock=lambda: now[0])
    first, late, gone = Asked([1]), Asked([2], deadline=3.0), Asked([3])
    batcher.submit(first.rows)
    assert model.entered.acquire(timeout=LONG)
    batcher.submit(late.rows)
    batcher.submit(gone.rows)
    gone.job.given_up = True
    now[0] = 4.0
    model.door.set()
    assert isinstance(late.error(), DeadlineError)
    last = Asked([4])
    batcher.submit(last.rows)
    assert last.answers() == [4]
    assert model.shapes == [(1, 1), (1, 1)]  # neither the late row nor the one given up


def test_closing_runs_what_waits(start: Callable[..., Batcher]) -> None:
    model = Gated()
    batcher = start(model)
    asked = [Asked([number]) for number in range(3)]
    for each in asked:
        batcher.submit(each.rows)
    model.door.set()
    batcher.close(timeout_s=LONG)
    assert [each.answers() for each in asked] == [[0], [1], [2]]
    with pytest.raises(BusyError, match="closing"):
        batcher.submit(Asked([1]).rows)


def test_closing_in_a_hurry_refuses_what_waits(start: Callable[..., Batcher]) -> None:
    model = Gated()
    batcher = start(model)
    running, waiting = Asked([1]), Asked([2])
    batcher.submit(running.rows)
    assert model.entered.acquire(timeout=LONG)
    batcher.submit(waiting.rows)
    batcher.close(drain=False, timeout_s=0.0)
    assert isinstance(waiting.error(), BusyError)
    model.door.set()
    assert running.answers() == [1]


def test_several_runners_share_one_queue(start: Callable[..., Batcher]) -> None:
    model = Gated()
    batcher = start(model, Limits(max_batch=1), runners=2)
    one, two = Asked([1]), Asked([2])
    batcher.submit(one.rows)
    batcher.submit(two.rows)
    assert model.entered.acquire(timeout=LONG)
    assert model.entered.acquire(timeout=LONG)  # both are in a run at once
    model.door.set()
    assert (one.answers(), two.answers()) == ([1], [2])


@pytest.mark.parametrize("side", ["left", "right"])
def test_short_rows_are_filled_on_their_side(side: str) -> None:
    long, short = Asked([1, 2, 3]), Asked([4])
    inputs, mask = join(SIGNATURE, [*long.rows, *short.rows], side)
    assert inputs["input_ids"].tolist() == [[1, 2, 3], [0, 0, 4] if side == "left" else [4, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1] if side == "left" else [1, 0, 0]]


def test_limits_of_a_batcher_are_checked() -> None:
    with pytest.raises(InputError):
        Limits(max_batch=0)
