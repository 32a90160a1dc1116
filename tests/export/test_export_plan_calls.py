"""Plans for several calls, and what a plan's file may say."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from losparse.errors import LosparseError
from losparse_export import Call, Plan, PlannedLayer, candidates, plan_layers

MIXED = PlannedLayer(128, 768, 32, 64, "out")
SHORT, LONG = Call(1, 4), Call(8, 512)


def test_two_calls_favour_a_form_that_neither_does_alone():
    """A start counts by the mean of the tokens: 31 calls of 4 and one of 4,096 are as 32 calls of 132."""
    alone = {call: plan_layers({"a": MIXED}, calls=call).layers["a"].lowering for call in (SHORT, LONG)}
    assert alone == {SHORT: "dense", LONG: "absorbed"}
    mixed = plan_layers({"a": MIXED}, calls=[(SHORT, 31), (LONG, 1)]).layers["a"]
    assert mixed.lowering == "selector" and mixed.reason.endswith("in calls of 4 and 4096 tokens")
    (as_one,) = (c.cost for c in candidates(MIXED, calls=Call(length=132)) if c.lowering == "selector")
    (selector,) = (c.cost for c in candidates(MIXED, calls=[(SHORT, 31), (LONG, 1)]) if c.lowering == "selector")
    # 31 * 4 + 4096 = 4,220 tokens in 32 calls are 131.875 each: a start costs a thousandth more than at 132
    assert selector == pytest.approx(as_one, rel=1e-3) and selector > as_one


def test_weights_are_shares_in_any_unit():
    plans = [plan_layers({"a": MIXED}, calls=[(SHORT, w), (LONG, w / 31)]).layers["a"].reason for w in (0.31, 31, 310)]
    assert plans[0] == plans[1] == plans[2]
    assert plan_layers({"a": MIXED}, calls=[(SHORT, 1), (LONG, 31)]).layers["a"].lowering == "absorbed"


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([], "calls must be a Call, or at least one pair"),
        ([SHORT, LONG], "calls must be a Call, or pairs of a Call and its weight"),
        ([(SHORT, 1), (SHORT, 2)], "got 1 x 4 tokens, threads: 1 twice; add their weights up"),
        ([(SHORT, 0)], "the weight of a call must be a finite number above 0, got 0"),
        ([(SHORT, float("nan"))], "the weight of a call must be a finite number above 0, got nan"),
        ([(4, 1.0)], "calls must be a Call, or at least one pair"),
    ],
)
def test_calls_are_refused(calls, message):
    with pytest.raises(LosparseError, match=message):
        plan_layers({}, calls=calls)


def test_a_plan_for_several_calls_says_them(tmp_path):
    plan = plan_layers({"a": MIXED}, calls=[(SHORT, 0.7), (LONG, 0.3)])
    data = json.loads(json.dumps(plan.to_dict()))
    assert (data["format"], data["target"]) == (3, "cpu") and "tokens" not in data
    assert data["calls"][1] == {"batch": 8, "length": 512, "past": 0, "threads": 1, "weight": 0.3}
    assert Plan.from_dict(data) == plan
    assert plan_layers({"a": MIXED}, calls=LONG).to_dict()["format"] == 3  # "tokens" would not say 8 texts
    assert plan_layers({"a": MIXED}, calls=SHORT).to_dict()["format"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 1}, "^plan: target must be a text that is not empty, got 1$"),
        ({"calls": []}, "^plan: calls must be a Call, or at least one"),
        ({"calls": [{"batch": 1}]}, r"^plan: calls\[0\].length is missing; it must be a whole number of 1 or more"),
        (
            {"calls": [{**asdict(SHORT), "weight": 1, "length": 0}]},
            r"^plan: calls\[0\].length must be a whole number of 1 or more, got 0",
        ),
    ],
)
def test_read_refuses_calls(change, message):
    data = plan_layers({"a": MIXED}, calls=LONG).to_dict()
    with pytest.raises(LosparseError, match=message):
        Plan.from_dict({**data, **change})


def test_a_plan_that_does_not_say_shared_is_read():
    wide = PlannedLayer(4, 32, 8, 1, shares_v=True)
    data = plan_layers({"a": wide}).to_dict()
    del data["layers"]["a"]["shared"]
    assert Plan.from_dict(data).layers["a"].spec == wide
    with pytest.raises(LosparseError, match=r"^plan: layers\['a'\]: rank must be in 0\.\.4 for a 4x32 layer, got 8"):
        Plan.from_dict({**data, "layers": {"a": {**data["layers"]["a"], "shared": False}}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 10**400}, "^plan: plan format is 10{70,80}.*, this losparse reads 2 and 3$"),
        ({"format": None}, "^plan: plan format is None, this losparse reads 2 and 3$"),
        ({"tokens": 10**400}, "^plan: tokens must be a whole number of 1 or more, at most 2147483647, got 10{70,80}"),
    ],
)
def test_what_a_plan_says_beyond_all_bounds_is_not_written_out(change, message):
    data = plan_layers({"a": MIXED}).to_dict()
    with pytest.raises(LosparseError, match=message) as caught:
        Plan.from_dict({**data, **change})
    assert len(str(caught.value)) < 300
    with pytest.raises(LosparseError, match=r"^plan: format is missing; it must be 2 or 3$"):
        Plan.from_dict({})
