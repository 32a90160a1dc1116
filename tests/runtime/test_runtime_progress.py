"""How work says where it is."""

from __future__ import annotations

import pytest

from losparse_runtime.contract.progress import SILENT, Phases, StageTimes

Call = tuple[int, int | None, str | None]


def recorder(seen: list[Call]):
    def advance(done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None) -> None:
        seen.append((done, total, title))

    return advance


def test_a_bar_begins_anew_with_every_phase() -> None:
    seen: list[Call] = []
    phases = Phases(recorder(seen))
    for phase, total in (("running the model", 2), ("running the model", 2), ("compressing block by block", 6)):
        phases.more(phase, 1, total)
    assert seen == [
        (0, 2, "running the model"), (1, None, None), (1, None, None),
        (-2, 6, "compressing block by block"), (1, None, None),
    ]  # fmt: skip


def test_a_phase_may_say_how_far_it_is_in_all() -> None:
    seen: list[Call] = []
    phases = Phases(recorder(seen), "exporting")
    for phase, done, total in (("a", 0, 4), ("a", 3, 4), ("b", 0, 9), ("b", 9, 9)):
        phases.at(phase, done, total)
    assert seen == [
        (0, 4, "exporting: a"), (0, None, None), (3, None, None),
        (-3, 9, "exporting: b"), (0, None, None), (9, None, None),
    ]  # fmt: skip


def test_a_silent_progress_takes_all_that_is_reported() -> None:
    with SILENT.stage("timing", 2) as advance:
        advance(1, note="fast")
        Phases(advance).more("phase", 1, 1)


def test_stages_that_have_ended_are_timed() -> None:
    progress = StageTimes(SILENT)
    for _ in range(2):
        with progress.stage("working", 3) as advance:
            advance(3)
    with pytest.raises(ValueError, match="x"), progress.stage("failing"):
        raise ValueError("x")
    assert list(progress.seconds) == ["working"] and progress.seconds["working"] >= 0
