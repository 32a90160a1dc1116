"""What is counted, priced by hand: a machine's constants, the calls, and int8 where that is faster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from losparse import LoSparse
from losparse.errors import LosparseError
from losparse_export import (
    CPU,
    TARGETS,
    Call,
    Costs,
    Counts,
    PlannedLayer,
    candidates,
    estimate_model,
    export_model,
    plan_layers,
    tune_plan,
)
from losparse_export.costs import Traffic

COSTS = Costs(
    node=100.0, element=2.0, gather=30.0, move=5.0, int8=0.5, quantise=3.0, scale=1.0, panel=4, narrower=0.2, error=3.0
)
LAYER = PlannedLayer(48, 32, 4, 8, "out")
COUNTS = Counts([(10, 20), (20, 5)], nodes=4, elements=7, moved=3, gathered=2, quantised=6, multiply_adds=11)


def test_a_price_is_the_sum_of_what_is_counted():
    # 200 + 100 + 11 multiply-adds, 6 * 3 quantised; 4 * 100 / 8 starts, 7 * 2 copied, 3 * 5 moved, 2 * 30 picked
    assert COSTS.price(COUNTS, Call(2, 4)) == 311 + 18 + 50 + 14 + 15 + 60


def test_products_are_quantised_where_that_is_faster():
    # (10, 20): 100 + 30 + 20 = 150 of 200; (20, 5): 50 + 60 + 5 = 115, more than its 100
    assert (COSTS.product((10, 20), "int8"), COSTS.product((20, 5), "int8")) == (150, 100)
    assert COSTS.gains((10, 20)) and not COSTS.gains((20, 5))
    assert COSTS.price(COUNTS, Call(2, 4)) - COSTS.price(COUNTS, Call(2, 4), "int8") == 50


def test_a_target_prices_the_tokens_of_all_calls():
    target = replace(CPU, costs=COSTS)
    calls = [(Call(1, 2), 3), (Call(1, 10), 1)]  # 6 and 10 of 16 tokens
    alone = [target.price(COUNTS, call) for call, _ in calls]
    assert target.price(COUNTS, calls) == pytest.approx(alone[0] * 6 / 16 + alone[1] * 10 / 16)
    # 4 starts in each of 4 calls, over 16 tokens, as in calls of 4 tokens
    assert target.price(COUNTS, calls) == pytest.approx(target.price(COUNTS, Call(1, 4)))


def test_calls_are_averaged_by_how_often_they_come():
    traffic = Traffic.of([(Call(1, 2), 3), (Call(1, 10), 1)])
    assert traffic.shares == (0.75, 0.25) and traffic.per_call(lambda call: float(call.length)) == 4.0


def test_targets_are_the_cpu_at_hand_and_kinds_of_cpu():
    assert list(TARGETS) == ["cpu", "cpu-avx2", "cpu-avx512-vnni", "cpu-amx"] and TARGETS["cpu"] == CPU
    assert {target.provider for target in TARGETS.values()} == {"CPUExecutionProvider"}
    assert CPU.plans == ("fp32", "int8") and CPU.costs == TARGETS["cpu-avx2"].costs  # as the tests' conftest says


def test_weights_of_any_size_are_shares():
    huge, short, long = 1e308, Call(1, 2), Call(1, 10)
    traffic = Traffic.of([(short, huge), (long, huge), (Call(2, 5), 1e-308)])
    assert traffic.shares[:2] == (0.5, 0.5) and traffic.shares[2] == 0.0
    # 2 and 10 of 12 tokens
    assert traffic.per_token(lambda call: float(call.length)) == pytest.approx(2 * 2 / 12 + 10 * 10 / 12)
    assert Traffic.of([(short, 5e-324), (long, 5e-324)]).shares == (0.5, 0.5)


def test_weights_may_be_numbers_of_numpy():
    traffic = Traffic.of([(Call(1, 2), np.int64(3)), (Call(1, 10), np.float32(1))])
    assert traffic.shares == (0.75, 0.25) and [type(weight) for weight in traffic.weights] == [float, float]


@pytest.mark.parametrize("weight", [10**400, float("inf"), float("nan"), 0, -1.0, True, "1", None])
def test_other_weights_are_refused(weight):
    with pytest.raises(LosparseError, match="the weight of a call must be a finite number above 0, got") as caught:
        Traffic.of([(Call(), weight), (Call(1, 10), 1.0)])
    assert len(str(caught.value)) < 200


def test_every_call_has_a_weight():
    with pytest.raises(LosparseError, match="every call must have one weight, got calls: 2, weights: 1"):
        Traffic((Call(), Call(1, 10)), (1.0,))


@pytest.mark.parametrize("field", ["batch", "length", "past", "threads"])
@pytest.mark.parametrize("value", [2**31, 10**400])
def test_a_call_is_not_beyond_what_can_be_counted(field, value):
    with pytest.raises(LosparseError, match=f"{field} must be a whole number of at most 2,147,483,647, got") as caught:
        Call(**{field: value})
    assert len(str(caught.value)) < 200
    assert Call(2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1).tokens == (2**31 - 1) ** 2


@pytest.mark.parametrize(
    "take",
    [
        lambda target: export_model("model", "out", target=target),
        lambda target: estimate_model("model", LoSparse(), target=target),
        lambda target: candidates(LAYER, target=target),
        lambda target: plan_layers({}, target=target),
        lambda target: tune_plan(plan_layers({"a": LAYER}), target=target),
    ],
    ids=["export", "estimate", "candidates", "plan", "tune"],
)
def test_the_name_of_a_target_is_refused_in_one_line(take):
    with pytest.raises(LosparseError, match=r"target must be a Target, as losparse_export\.CPU is, got 'cpu'"):
        take("cpu")


def test_other_things_in_place_of_plans_are_refused_in_one_line(tmp_path):
    with pytest.raises(LosparseError, match=r"plan must be a Plan, as Plan\.read\(FILE\) returns it, got \{\}"):
        export_model(tmp_path, tmp_path / "out", plan={})  # type: ignore[arg-type]
    with pytest.raises(LosparseError, match=r"missing\.json: cannot be read"):
        export_model(tmp_path, tmp_path / "out", plan=tmp_path / "missing.json")
