"""A search: what is timed, what is trained, what is chosen; with made-up times and scores, and with no model at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertConfig

from losparse.building.recipe import BuildRecipe
from losparse.building.work import Tools
from losparse.errors import LosparseError
from losparse.tuning.candidates import Group, Timed, groups, misses, nearest, worth_training
from losparse.tuning.halving import halve
from losparse.tuning.result import rows_of, write_result
from losparse.tuning.run import recipe_of, tune
from losparse.tuning.settings import Search

NARROW, LOW, HALF = Group("narrow", 0.0, None), Group("foldable", 0.05, None), Group("narrow", 0.0, 1)


def form(group: Group = NARROW, keep: float = 0.2, precision: str = "int8", **values: Any) -> Timed:
    return Timed(group, keep, precision, **{"ms": 2.0, "speedup": 5.0, "bytes": 10_000_000, **values})


def test_a_search_needs_a_target() -> None:
    with pytest.raises(LosparseError, match="needs a target: --target-latency, --target-speedup or --target-bytes"):
        Search()


def test_groups_are_structures_low_ranks_and_depths() -> None:
    search = Search(target_speedup=2, structures=("narrow",), low_ranks=(0.0, 0.05), depths=(1.0, 0.5))
    assert list(groups(search, 12)) == [
        Group("narrow", 0.0, None), Group("narrow", 0.05, None), Group("narrow", 0.0, 6), Group("narrow", 0.05, 6)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (Search(target_latency=1.5), "takes 2.00 ms, 1.5 ms are the target"),
        (Search(target_speedup=6.0), "is 5.00x as fast as dense fp32, 6x is the target"),
        (Search(target_bytes="9MB"), "has 10.00 MB, 9.00 MB is the target"),  # type: ignore[arg-type]
        (Search(target_latency=2.0, target_speedup=5.0, target_bytes=10_000_000), None),
    ],
)
def test_a_target_is_reached_or_missed_by_so_much(search: Search, said: str | None) -> None:
    assert misses(form(), search) == said


def test_of_every_group_the_form_that_keeps_most_and_reaches_the_target_is_trained() -> None:
    search = Search(target_latency=2.5, trainings=2)
    timed = [
        form(keep=0.1, ms=1.5), form(keep=0.2, ms=2.0), form(keep=0.3, ms=2.6),
        form(keep=0.3, ms=2.4, precision="fp32"), form(LOW, keep=0.2, ms=2.2),
        form(LOW, keep=0.3, ms=9.0), form(HALF, keep=0.1, ms=2.0),
    ]  # fmt: skip
    assert [(each.group, each.keep) for each in worth_training(timed, search)] == [(NARROW, 0.3), (LOW, 0.2)]
    assert worth_training(timed, Search(target_latency=0.1)) == []
    assert nearest(timed, Search(target_latency=0.1)).ms == 1.5


def test_the_better_half_goes_on_twice_as_long() -> None:
    candidates = [form(keep=keep) for keep in (0.5, 0.4, 0.3, 0.2, 0.1)]
    asked: list[tuple[float, float]] = []

    def score(each: Timed, share: float) -> float:
        asked.append((each.keep, share))
        return each.keep if each.keep != 0.5 else 0.0

    rounds = halve(candidates, score, 0.25)
    assert [[each.keep for each in one.kept] for one in rounds] == [[0.4, 0.3, 0.2], [0.4, 0.3], [0.4]]
    assert [one.share for one in rounds] == [0.25, 0.5, 1.0]
    assert asked[:5] == [(keep, 0.25) for keep in (0.5, 0.4, 0.3, 0.2, 0.1)] and len(asked) == 10
    assert halve(candidates[:1], score, 0.25) == []


@pytest.fixture
def recipe(tmp_path: Path) -> BuildRecipe:
    import numpy as np
    from safetensors.numpy import save_file

    (tmp_path / "model").mkdir()
    BertConfig(num_hidden_layers=2, architectures=["BertForSequenceClassification"]).save_pretrained(tmp_path / "model")
    save_file({"bert.pooler.dense.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "train.csv").write_text("text,label\na,1\n")
    return BuildRecipe.from_dict(
        {
            "model": str(tmp_path / "model"),
            "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "train.csv")},
            "compress": {"training": {"max_steps": 80}},
            "bench": {"threads": 1},
        }
    )


class Fakes:
    """Made-up times and scores: narrow is fast, the low-rank part is right."""

    def __init__(self) -> None:
        self.timed: list[Group] = []
        self.trained: list[tuple[float, int]] = []

    def time(self, group: Group, config: Any, recipe: Any, search: Search, call: Any, progress: Any) -> list[Timed]:
        self.timed.append(group)
        slow = 1.0 + 2 * group.low_rank
        return [
            Timed(group, keep, "int8", 10 * keep * slow, 1 / (keep * slow), int(2e7 * keep)) for keep in search.keeps
        ]

    def compress(self, job: Any, progress: Any) -> Any:
        method, training = job.recipe.method, job.recipe.training
        self.trained.append((method.keep, training.max_steps))
        return SimpleNamespace(metrics={"accuracy": 0.8 + method.rank_share})

    def run(self, recipe: BuildRecipe, out: Path, search: Search) -> Any:
        return tune(recipe, out, search, builds=False, tools=Tools(compress=self.compress), time_group=self.time)


SEARCH = Search(
    target_speedup=4.0,
    max_drop=1.0,
    keeps=(0.1, 0.2, 0.3),
    structures=("foldable",),
    low_ranks=(0.0, 0.05),
    depths=(1.0,),
)


def test_a_search_times_trains_chooses_and_remembers(recipe: BuildRecipe, tmp_path: Path) -> None:
    fakes = Fakes()
    report = fakes.run(recipe, tmp_path / "out", SEARCH)
    assert report.passed and report.best is not None and report.recipe is not None
    assert (report.best.group.low_rank, report.best.keep) == (0.05, 0.2)
    assert fakes.trained == [(0.2, 10), (0.2, 10)] and len(fakes.timed) == 2
    method = report.recipe.compress.to_dict()["method"]
    assert (method["keep"], method["low_rank"], method["structure"]) == (0.2, 0.05, "foldable")
    gates = report.recipe.gates
    assert (gates.min_speedup, gates.max_accuracy_drop) == (4.0, 1.0)
    again = Fakes()
    assert again.run(recipe, tmp_path / "out", SEARCH) == report
    assert (again.timed, again.trained) == ([], [])
    rows = rows_of(report, SEARCH)
    assert rows[0][0].endswith("(chosen)") and rows[0][-1] == "85.00 after 12.5 % of the steps"
    files = write_result(report, SEARCH)
    assert files["tune.md"].read_text().count("\n") == 2 + len(report.timed)
    assert files["tune.svg"].read_text().startswith("<svg")


def test_a_search_that_is_cut_off_goes_on(recipe: BuildRecipe, tmp_path: Path) -> None:
    cut = Fakes()

    def stop(job: Any, progress: Any) -> Any:
        if cut.trained:
            raise KeyboardInterrupt
        return Fakes.compress(cut, job, progress)

    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "out", SEARCH, builds=False, tools=Tools(compress=stop), time_group=cut.time)
    rest = Fakes()
    assert rest.run(recipe, tmp_path / "out", SEARCH).passed
    assert (len(cut.trained), len(rest.trained), rest.timed) == (1, 1, [])


def test_a_target_that_nothing_reaches_is_said_with_the_nearest(recipe: BuildRecipe, tmp_path: Path) -> None:
    from dataclasses import replace

    fakes = Fakes()
    report = fakes.run(recipe, tmp_path / "out", replace(SEARCH, target_speedup=50.0))
    assert not report.passed and fakes.trained == []
    assert report.nearest == ("keep 0.1, foldable, int8 is 10.00x as fast as dense fp32, 50x is the target")
    assert "No form reaches the target" in write_result(report, SEARCH)["tune.md"].read_text()


def test_forms_of_fewer_blocks_are_as_fast_as_against_all_blocks(recipe: BuildRecipe, tmp_path: Path) -> None:
    from dataclasses import replace

    search = replace(SEARCH, low_ranks=(0.0,), depths=(1.0, 0.5))
    report = Fakes().run(recipe, tmp_path / "out", search)
    by_depth = {(each.group.blocks, each.keep): each.speedup for each in report.timed}
    assert by_depth[None, 0.1] == pytest.approx(10) and by_depth[1, 0.1] == pytest.approx(10)


def test_a_search_needs_texts_to_train_on(recipe: BuildRecipe, tmp_path: Path) -> None:
    bare = BuildRecipe.from_dict({"model": recipe.model})
    with pytest.raises(LosparseError, match=r"needs labelled texts as data\.train, got none"):
        Fakes().run(bare, tmp_path / "out", SEARCH)


def test_the_result_has_the_blocks_that_were_chosen(recipe: BuildRecipe) -> None:
    assert recipe_of(recipe, form(HALF), SEARCH).compress.keep_layers == 1
