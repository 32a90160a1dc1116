"""Choosing forms by timing: what is timed, what is remembered, and that the plan says so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from losparse.errors import LosparseError
from losparse_export import Call, PlannedLayer, plan_layers, tune_plan
from losparse_export.graph.layer import Order
from losparse_export.lowerings import LOWERINGS
from losparse_export.planning.tune import cache_file, layer_model
from losparse_export.target import CPU

from .builders import run_graph

ROWS = PlannedLayer(48, 32, 4, 8, "out")
FOLDED = PlannedLayer(64, 32, 4, 16, "out", order=Order("out", 1, 0, True, True))
SPLIT = PlannedLayer(32, 64, 4, 16, "in", order=Order("in", 1, 0, False, True))
HEADS = PlannedLayer(48, 32, 4, 12, "out", order=Order("out", 4))
WIDE = PlannedLayer(8, 32, 20, 4, "out", shares_v=True)  # shares the `v` of a wider layer


class Times:
    """Makes up times instead of taking them: the longer the name of a form, the faster; notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[PlannedLayer, tuple[str, ...], Call]] = []

    def __call__(self, models: Any, shape: PlannedLayer, call: Call, provider: str) -> dict[str, float]:
        assert provider == CPU.provider
        self.asked.append((shape, tuple(models), call))
        return {name: 1.0 / len(name) for name in models}


@pytest.fixture
def times() -> Times:
    return Times()


def test_the_fastest_form_is_taken_and_the_reasons_say_so(times, tmp_path):
    plan = plan_layers({"a": ROWS, "b": ROWS})
    tuned = tune_plan(plan, Call(1, 128), cache=tmp_path / "times.json", timer=times)
    layer = tuned.layers["a"]
    assert layer.lowering == max(times.asked[0][1], key=len)
    assert layer.reason.startswith(f"fastest of {len(times.asked[0][1])} that were timed: 0.1")
    assert f"{layer.lowering} takes 0.1" in layer.refused["dense"]
    assert set(layer.refused) == {lowering.NAME for lowering in LOWERINGS} - {layer.lowering}
    assert tuned.layers["b"] == layer and len(times.asked) == 1  # equal sizes are timed once


def test_forms_without_hope_are_not_timed(times, tmp_path):
    shape = PlannedLayer(768, 768, 4, 8, "out")
    tuned = tune_plan(plan_layers({"a": shape}), Call(), cache=tmp_path / "times.json", timer=times)
    assert "dense" not in times.asked[0][1]
    assert tuned.layers["a"].refused["dense"].startswith("not timed: its estimate is more than 3 times")


def test_times_are_remembered_by_call_and_sizes(times, tmp_path):
    cache = tmp_path / "deep" / "times.json"
    plan = plan_layers({"a": ROWS})
    first = tune_plan(plan, Call(1, 128), cache=cache, timer=times)
    assert tune_plan(plan, Call(1, 128), cache=cache, timer=times) == first and len(times.asked) == 1
    tune_plan(plan, Call(1, 16), cache=cache, timer=times)
    tune_plan(plan, Call(1, 128, threads=2), cache=cache, timer=times)
    assert len(times.asked) == 3
    assert all("48x32, rank 4, kept 8" in key for key in json.loads(cache.read_text()))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": "b"}'])
def test_a_damaged_cache_is_no_cache(times, tmp_path, text):
    (tmp_path / "times.json").write_text(text)
    tune_plan(plan_layers({"a": ROWS}), Call(), cache=tmp_path / "times.json", timer=times)
    assert len(times.asked) == 1 and json.loads((tmp_path / "times.json").read_text())


def test_the_cache_lies_where_caches_lie(monkeypatch, tmp_path):
    """Where the demo keeps the model that it fetches, too: one variable moves all of it."""
    monkeypatch.delenv("LOSPARSE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_file() == tmp_path / "xdg" / "losparse" / "times.json"
    monkeypatch.setenv("LOSPARSE_CACHE", str(tmp_path / "own"))
    assert cache_file() == tmp_path / "own" / "times.json"


@pytest.mark.parametrize("field", ["batch", "length", "threads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_call_is_whole_numbers(field, value):
    with pytest.raises(LosparseError, match=f"{field} must be a whole number of at least 1, got {value!r}"):
        Call(**{field: value})


def test_a_call_may_have_no_past_but_not_less():
    assert Call(past=0) == Call()
    with pytest.raises(LosparseError, match=r"^past must be a whole number of at least 0, got -1$"):
        Call(past=-1)


@pytest.mark.parametrize("shape", [ROWS, FOLDED, SPLIT, HEADS, WIDE], ids=["rows", "folded", "split", "heads", "wide"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_forms_of_a_layer_are_the_same_layer(shape, precision):
    """What is timed must be the same function, or the times could not be compared."""
    x = np.random.default_rng(1).normal(size=(5, shape.in_features)).astype(np.float32)
    feeds = {"x": x, "x_kept": x[:, : shape.kept], "x_others": x[:, shape.kept :]}
    results = []
    for lowering in LOWERINGS:
        if lowering.check(shape) is None:
            model = layer_model(shape, lowering.NAME, precision, Call(length=5))
            outputs = run_graph(model, {value.name: feeds[value.name] for value in model.graph.inputs})
            results.append(np.concatenate(outputs, axis=-1))
    assert len(results) > 2
    for result in results[1:]:
        # fp32: outputs of magnitude 3 in another order of summation. int8: none of these products is large enough to
        # gain from it, so nothing is quantised and the same bound holds.
        np.testing.assert_allclose(result, results[0], rtol=0, atol=2e-5)


def test_timing_really_runs(tmp_path):
    tuned = tune_plan(plan_layers({"a": HEADS}, calls=Call(length=4)), Call(1, 4), cache=tmp_path / "times.json")
    known = json.loads((tmp_path / "times.json").read_text())
    assert len(known) >= 2 and all(0 < ms < 1000 for ms in known.values())
    assert tuned.layers["a"].lowering in {key.rpartition("; ")[2] for key in known}


def test_several_calls_are_timed_each_and_weighed(tmp_path):
    """Dense is faster in the short call, selector in the long one: what is taken hangs on how often each comes."""
    short, long = Call(1, 4), Call(8, 64)

    def made_up(models: Any, shape: PlannedLayer, call: Call, provider: str) -> dict[str, float]:
        best = {short: "dense", long: "selector"}[call]
        return {name: {"dense": 1.0, "selector": 1.0}.get(name, 9.0) + (name != best) for name in models}

    def tuned(often: float) -> Any:
        calls = [(short, often), (long, 1.0)]
        plan = plan_layers({"a": ROWS}, calls=calls)
        return tune_plan(plan, calls, cache=tmp_path / "times.json", timer=made_up).layers["a"]

    assert (tuned(0.5).lowering, tuned(2.0).lowering) == ("selector", "dense")
    # 2 of 3 calls take 1 ms, the third 2 ms
    assert "timed: 1.333 ms at 1 x 4 tokens, threads: 1 (67%); 8 x 64 tokens, threads: 1 (33%)" in tuned(2.0).reason


def test_a_cache_that_cannot_be_written_is_no_obstacle(times, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    tuned = tune_plan(plan_layers({"a": ROWS}), Call(1, 128), cache=tmp_path / "file" / "times.json", timer=times)
    assert tuned.layers["a"].reason.startswith("fastest of") and len(times.asked) == 1
