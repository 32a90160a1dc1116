"""Which steps of a build run again, and why; what a build that is killed leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from losparse.building import run as run_module
from losparse.building.recipe import BuildRecipe
from losparse.building.run import plan_steps, run_steps
from losparse.errors import LosparseError

from .toys import toy_steps, work_of


@pytest.fixture
def train(tmp_path: Path) -> Path:
    file = tmp_path / "train.csv"
    file.write_text("text,label\na,1\n")
    return file


def recipe_of(train: Path, **changes: Any) -> BuildRecipe:
    data: dict[str, Any] = {"model": "m", "data": {"train": str(train)}}
    return BuildRecipe.from_dict(data | changes)


def states(recipe: BuildRecipe, out: Path, start: str | None = None) -> dict[str, str]:
    return {each.step: each.state for each in plan_steps(toy_steps([]), recipe, out, start=start)}


def test_a_second_run_does_nothing(train: Path, tmp_path: Path) -> None:
    runs: list[str] = []
    work = work_of(recipe_of(train), tmp_path / "out")
    assert list(run_steps(toy_steps(runs), work)) == ["first", "second", "third"]
    assert run_steps(toy_steps(runs), work) == {}
    assert runs == ["first", "second", "third"]
    assert states(work.recipe, work.out) == {"first": "done", "second": "done", "third": "done"}


@pytest.mark.parametrize(
    ("changes", "expected", "why"),
    [
        (
            {"compress": {"training": {"epochs": 9}}},
            ["first", "second", "third"],
            "compress.training.epochs: 4.0 -> 9.0",
        ),
        ({"export": {"opset": 18}}, ["second", "third"], "export.opset: 23 -> 18"),
        ({"gates": {"max_bytes": "1MB"}}, ["third"], "gates.max_bytes: null -> 1000000"),
    ],
)
def test_a_change_runs_what_depends_on_it(
    changes: dict[str, Any], expected: list[str], why: str, train: Path, tmp_path: Path
) -> None:
    out, runs = tmp_path / "out", list[str]()
    run_steps(toy_steps([]), work_of(recipe_of(train), out))
    changed = recipe_of(train, **changes)
    planned = {each.step: each for each in plan_steps(toy_steps([]), changed, out)}
    assert planned[expected[0]].state == "runs" and planned[expected[0]].reasons == (why,)
    assert [name for name, each in planned.items() if each.state != "done"] == expected
    run_steps(toy_steps(runs), work_of(changed, out))
    assert runs == expected


def test_contents_count_and_places_do_not(train: Path, tmp_path: Path) -> None:
    out, runs = tmp_path / "out", list[str]()
    run_steps(toy_steps([]), work_of(recipe_of(train), out))
    other = tmp_path / "elsewhere" / "texts.csv"
    other.parent.mkdir()
    other.write_bytes(train.read_bytes())
    assert run_steps(toy_steps(runs), work_of(recipe_of(other), out)) == {}
    other.write_text("text,label\nb,1\n")
    (first, second, _) = plan_steps(toy_steps([]), recipe_of(other), out)
    assert first.reasons == ("the contents of data.train changed",)
    assert (second.state, second.reasons) == ("may run", ("first runs again, and may write something else",))


def test_a_step_that_writes_the_same_again_wakes_nobody(train: Path, tmp_path: Path) -> None:
    out, runs = tmp_path / "out", list[str]()
    work = work_of(recipe_of(train), out)
    run_steps(toy_steps([]), work)
    (out / "first" / "text").unlink()  # what it wrote is not as it was, and comes out the same
    assert states(work.recipe, out)["first"] == "runs"
    run_steps(toy_steps(runs), work)
    assert runs == ["first"]


def test_from_runs_a_step_and_all_that_follow(train: Path, tmp_path: Path) -> None:
    runs: list[str] = []
    work = work_of(recipe_of(train), tmp_path / "out")
    run_steps(toy_steps([]), work)
    assert states(work.recipe, work.out, start="second") == {"first": "done", "second": "runs", "third": "runs"}
    run_steps(toy_steps(runs), work, start="second")
    assert runs == ["second", "third"]


def test_a_step_that_the_recipe_has_no_more_leaves_nothing(train: Path, tmp_path: Path) -> None:
    out, runs = tmp_path / "out", list[str]()
    run_steps(toy_steps([]), work_of(recipe_of(train), out))
    without = recipe_of(train, name="no third")
    assert states(without, out)["third"] == "none"
    run_steps(toy_steps(runs), work_of(without, out))
    assert runs == [] and not (out / "third").exists()


@pytest.mark.parametrize("killed", ["first", "second", "third"])
def test_killed_in_a_step_and_started_again_it_is_as_if_it_never_was(killed: str, train: Path, tmp_path: Path) -> None:
    def fail(name: str) -> None:
        if name == killed:
            raise KeyboardInterrupt

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_steps(toy_steps([]), work_of(recipe_of(train), whole))
    with pytest.raises(KeyboardInterrupt):
        run_steps(toy_steps([], fail), work_of(recipe_of(train), cut))
    (cut / ".first.12345678.tmp").mkdir()  # as a process leaves it that cannot clean up
    runs: list[str] = []
    run_steps(toy_steps(runs), work_of(recipe_of(train), cut))
    assert runs == ["first", "second", "third"][["first", "second", "third"].index(killed) :]
    assert {file.name: (cut / file.name / "text").read_text() for file in whole.iterdir() if file.name[0] != "."} == {
        file.name: (whole / file.name / "text").read_text() for file in cut.iterdir() if file.name[0] != "."
    }
    assert not (cut / ".first.12345678.tmp").exists()


def test_a_damaged_record_is_none(train: Path, tmp_path: Path) -> None:
    runs: list[str] = []
    work = work_of(recipe_of(train), tmp_path / "out")
    run_steps(toy_steps([]), work)
    (work.out / ".steps" / "second.json").write_text('{"parts": ')
    (work.out / ".steps" / "digests.json").write_text("[]")
    run_steps(toy_steps(runs), work)
    assert runs == ["second"]


def test_two_builds_at_once_are_refused(train: Path, tmp_path: Path) -> None:
    work = work_of(recipe_of(train), tmp_path / "out")
    with run_module._locked(work.out), pytest.raises(LosparseError, match="another build is at work in"):
        run_steps(toy_steps([]), work)


def test_changed_code_and_packages_are_reasons() -> None:
    from losparse.building.cache import differences

    before = {"settings": {}, "code": "a", "packages": {"torch": "2.13.0"}, "after": {"dense": "1"}}
    now = {"settings": {}, "code": "b", "packages": {"torch": "2.14.0"}, "after": {"dense": "2"}}
    assert differences(before, now) == [
        "losparse's code for it changed",
        'torch: "2.13.0" -> "2.14.0"',
        "dense wrote something else",
    ]
