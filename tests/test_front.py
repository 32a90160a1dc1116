"""What the benchmarks call the front."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module", autouse=True)
def front():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
        import _front

        yield _front


Points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(Points)
def test_what_is_on_the_front_is_beaten_by_nobody_and_all_else_is(front, places):
    points = [{"name": str(i), "time": time, "accuracy": right} for i, (time, right) in enumerate(places)]
    chosen = front.on_front(points, "time")
    for point in points:
        others = [other for other in points if other is not point]
        beaten = any(
            other["time"] <= point["time"]
            and other["accuracy"] >= point["accuracy"]
            and (other["time"], other["accuracy"]) != (point["time"], point["accuracy"])
            for other in others
        )
        twin = any(
            (other["time"], other["accuracy"]) == (point["time"], point["accuracy"]) and other["name"] in chosen
            for other in others
        )
        assert (point["name"] in chosen) == (not beaten and not twin)


def test_the_first_seed_of_every_method_and_keep_is_taken_and_dense_comes_first(front):
    rows = [("rom", 0.2, 1), ("rom", 0.1, 2), ("dense", 1.0, 0), ("rom", 0.2, 0), ("rom", 0.1, 3)]
    taken = front.first_seeds({"method": method, "keep": keep, "seed": seed} for method, keep, seed in rows)
    assert [tuple(row.values()) for row in taken] == [("dense", 1.0, 0), ("rom", 0.2, 0), ("rom", 0.1, 2)]


def test_every_method_of_the_table_has_a_group(front):
    names = [
        "dense",
        "losparse in 3 of 6 blocks + distillation",
        "3 of 6 blocks",
        "pruning + distillation",
        "rom",
        "lpaf",
        "narrow without low rank",
    ]
    assert [front.group_of(name) for name in names] == [
        "dense",
        "LoSparse",
        "fewer dense blocks",
        "pruning alone",
        "low rank alone",
        "low rank alone",
        "narrow",
    ]
