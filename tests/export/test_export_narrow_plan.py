"""Plans of narrowed layers: what they say, that they are carried out as they stand, and which edits are refused.

Tolerance 1e-5, scaled with outputs above 1, as in `test_export_narrow`.
"""

from __future__ import annotations

import re
from typing import Any

import onnx_ir as ir
import pytest
import torch

from losparse.errors import LosparseError
from losparse_export import Call, Plan, plan_model
from losparse_export.build import build_graph
from losparse_export.passes import fold_model
from losparse_export.target import prepare_model

from .blocks import Blocks, prefer
from .builders import make_layer
from .test_export_plan_edits import assert_right, edited

SCORES, VALUES, NEURONS = [1, 3], [0, 2, 3], [1, 4, 6]  # of two heads of width 4, and of eight neurons


def block(scores: list[int] = SCORES, values: list[int] = VALUES) -> ir.Model:
    """A transformer block of rank 0, in which the second head keeps nothing."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.tokens(6), "norm0")
    kept = {"query": scores, "key": scores, "value": values}
    parts = [b.layer(x, make_layer(8, 6, rank=0, kept=rows), name) for name, rows in kept.items()]
    y = b.layer(b.attention(*parts, 2), make_layer(6, 8, rank=0, kept=values, axis="in"), "output")
    x = b.norm(b.op("Add", y, x), "norm1")
    up = b.op("Gelu", b.layer(x, make_layer(8, 6, rank=0, kept=NEURONS), "up"))
    y = b.layer(up, make_layer(6, 8, rank=0, kept=NEURONS, axis="in"), "down")
    return prepare_model(b.model(b.norm(b.op("Add", y, x), "norm2")))


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return block()


@pytest.fixture
def plan(model: ir.Model) -> Plan:
    return build_graph(model, calls=Call(length=4096)).plan


def test_a_plan_says_what_is_left(model, plan):
    data = edited(plan)
    value = data["layers"]["value"]
    assert (value["shape"], value["kept"]) == ([8, 6], 3)
    assert value["narrowed"] == {"shape": [3, 6], "rank": 0, "kept": 3, "pivots": None}
    assert value["reason"].endswith("; narrowed: 3x6 of its 8x6 are left, and nobody needs the others")
    folds = {tuple(fold["writers"]): fold for fold in data["folds"] if fold["refused"] is None}
    assert (folds["query", "key"]["dropped"], folds["query", "key"]["dropped_blocks"]) == (6, 1)
    assert folds["up",]["dropped"] == 5 and "dropped_blocks" not in folds["up",]
    assert Plan.from_dict(data) == plan
    assert_right(model, Plan.from_dict(data))


@pytest.mark.parametrize("writers", [["value"], ["up"]])
def test_a_fold_may_drop_nothing(model, plan, writers):
    data = edited(plan)
    fold = next(fold for fold in data["folds"] if fold["writers"] == writers and fold["refused"] is None)
    fold["dropped"], fold["dropped_blocks"] = 0, 0
    graph = assert_right(model, Plan.from_dict(data))
    attention = next(node for node in graph.graph if node.op_type == "Attention")
    # A head goes from queries, keys and values, or not at all.
    assert attention.attributes["q_num_heads"].as_int() == (2 if writers == ["value"] else 1)


@pytest.mark.parametrize("writers", [["query", "key"], ["value"], ["up"]])
def test_a_fold_that_is_switched_off_drops_nothing(model, plan, writers):
    data = edited(plan)
    fold = next(fold for fold in data["folds"] if fold["writers"] == writers and fold["refused"] is None)
    fold["refused"] = "not here"
    assert_right(model, Plan.from_dict(data))


def test_a_plan_from_before_is_carried_out_as_it_was():
    """Its folds say nothing of features that are dropped."""
    model = block([1, 3, 5, 7], [0, 2, 4, 6])
    graph = model.clone()
    everything = [fold.layers for fold in fold_model(model.clone())]
    folds = fold_model(graph, whole=everything)
    assert not any(fold.dropped for fold in folds)
    plan = prefer(plan_model(graph, calls=Call(length=4096), folds=folds), "split", "folded", "sliced")
    assert {layer.lowering for layer in plan.layers.values()} == {"folded", "sliced", "split"}
    assert "narrowed" not in edited(plan)["layers"]["value"]
    built = assert_right(model, Plan.from_dict(edited(plan)))
    assert "Concat" in {node.op_type for node in built.graph}


def change_dropped(data: Any) -> None:
    next(fold for fold in data["folds"] if fold["writers"] == ["up"])["dropped"] = 4


def change_size(data: Any) -> None:
    data["layers"]["up"]["narrowed"]["shape"] = [4, 6]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change_dropped, "the plan's fold of 'up' and 'down' has dropped 4, the model's 5"),
        (
            change_size,
            "the plan's narrowed of layer 'up' is not the model's (3x6, rank 0, kept 3, axis 'out'), got 4x6",
        ),
    ],
)
def test_other_edits_are_refused(model, plan, edit, message):
    data = edited(plan)
    edit(data)
    with pytest.raises(LosparseError, match=re.escape(message)):
        build_graph(model, plan=Plan.from_dict(data))
