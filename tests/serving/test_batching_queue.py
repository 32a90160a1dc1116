"""Which rows share a run, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from losparse_runtime import BusyError, DeadlineError, InputError
from losparse_runtime.batching.queue import Limits, RowQueue
from losparse_runtime.batching.rows import Job, Row


def row(length: int, *, key: object = None, rows: int = 1, deadline: float = 100.0, job: Job | None = None) -> Row:
    made = Job(rows, deadline, lambda job: None) if job is None else job
    return Row(made, range(rows), {}, length, key)


def taken(queue: RowQueue) -> list[int]:
    return [each.length for each in queue.take()]


def filled(lengths: Sequence[int], limits: Limits | None = None) -> RowQueue:
    queue = RowQueue(limits or Limits())
    for length in lengths:
        queue.put([row(length)])
    return queue


def test_the_oldest_row_is_always_in_the_next_run() -> None:
    queue = filled([500, 8, 8, 8])
    assert taken(queue) == [500]  # 3 x 500 tokens of padding are no help to rows of 8
    assert taken(queue) == [8, 8, 8]
    assert len(queue) == 0


def test_rows_of_about_one_length_come_before_older_ones_of_another() -> None:
    queue = filled([100, 300, 110, 95], Limits(max_batch=3))
    assert taken(queue) == [100, 110, 95]
    assert taken(queue) == [300]


def test_a_run_holds_no_more_rows_than_it_may() -> None:
    assert taken(filled([8] * 5, Limits(max_batch=3))) == [8, 8, 8]


def test_a_run_holds_no_more_tokens_than_it_may() -> None:
    # Padded to 20 each, three rows are 60 tokens.
    queue = filled([20, 20, 20], Limits(max_tokens=59))
    assert taken(queue) == [20, 20]


def test_a_row_beyond_the_tokens_of_a_run_runs_alone() -> None:
    queue = filled([512, 512], Limits(max_tokens=100))
    assert taken(queue) == [512]
    assert taken(queue) == [512]


def test_padding_of_more_than_a_quarter_makes_another_run() -> None:
    # Two rows of 100 and 200: 400 tokens, of which 1.25 x 300 + 2 x 16 = 407 may be. Of 100 and 220: 440, of 432.
    assert taken(filled([100, 200])) == [100, 200]
    assert taken(filled([100, 220])) == [100]


def test_rows_of_another_key_run_apart() -> None:
    queue = RowQueue(Limits())
    for key in ("a", "b", "a"):
        queue.put([row(8, key=key)])
    assert [each.key for each in queue.take()] == ["a", "a"]
    assert [each.key for each in queue.take()] == ["b"]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue = filled([8, 8, 8], Limits(queue=3))
    queue.took(1, 2.0)  # a row takes two seconds
    assert queue.full
    with pytest.raises(BusyError, match="3 rows wait already, and at most 3 may") as refused:
        queue.put([row(8)])
    assert refused.value.retry_after_s == 6
    assert len(queue) == 3


def test_a_request_larger_than_the_queue_is_taken_while_nothing_waits() -> None:
    queue = RowQueue(Limits(queue=2))
    queue.put([row(8), row(8), row(8)])
    assert len(queue) == 3


def test_late_rows_and_those_given_up_are_not_run() -> None:
    queue = RowQueue(Limits())
    late, gone, fine = row(8, deadline=5.0), row(8), row(8)
    for each in (late, gone, fine):
        queue.put([each])
    gone.job.given_up = True
    assert queue.drop(now=6.0) == [late.job]
    assert isinstance(late.job.error, DeadlineError)
    assert queue.take() == [fine]


@pytest.mark.parametrize("name", ["max_batch", "max_tokens", "queue"])
@pytest.mark.parametrize("value", [0, True, 1.5])
def test_limits_are_whole_numbers_from_one_on(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name} must be a whole number >= 1"):
        Limits(**{name: value})  # type: ignore[arg-type]
