"""Plans are carried out as they stand: those of another model are refused by the layer's name, edited ones are right.

Tolerance 1e-5, scaled with outputs above 1, as in `test_export_fold`: rounding is near 1e-6, and a feature in another's
place is off by 0.01 and more.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
import torch

from losparse.errors import LosparseError
from losparse_export import Call, Plan, PlannedLayer, export_model, lower_model, plan_layers, plan_model
from losparse_export.build import build_graph
from losparse_export.passes import fold_model
from losparse_export.target import prepare_model

from .blocks import Blocks, assert_equal_outputs, dense_outputs, feeds_for, prefer, shapes_of
from .builders import LAYER, layer_graph, make_layer

ATOL = 1e-5
HEADS, NEURONS = [1, 3, 5, 7], [1, 4, 6]


def block(up_kept: Any = NEURONS) -> ir.Model:
    """A transformer block with normalisation behind each part, as it is before it is folded."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.tokens(6), "norm0")
    parts = [b.layer(x, make_layer(8, 6, rank=2, kept=HEADS), name) for name in ("query", "key", "value")]
    y = b.layer(b.attention(*parts, 2), make_layer(6, 8, rank=2, kept=HEADS, axis="in"), "output")
    x = b.norm(b.op("Add", y, x), "norm1")
    up = b.op("Gelu", b.layer(x, make_layer(8, 6, rank=2, kept=up_kept), "up"))
    y = b.layer(up, make_layer(6, 8, rank=2, kept=NEURONS, axis="in"), "down")
    return prepare_model(b.model(b.norm(b.op("Add", y, x), "norm2")))


def edited(plan: Plan) -> Any:
    """Return the plan as it stands in a file."""
    return json.loads(json.dumps(plan.to_dict()))


def assert_right(model: ir.Model, plan: Plan) -> ir.Model:
    feeds = feeds_for(model)
    built = build_graph(model, plan=plan)
    assert built.plan == plan
    assert_equal_outputs(built.graph, feeds, dense_outputs(model, feeds), ATOL)
    return built.graph


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return block()


@pytest.fixture
def plan(model: ir.Model) -> Plan:
    """The plan of `model` with every layer in the form that its order is for."""
    return prefer(build_graph(model).plan, "split", "folded", "sliced")


def test_a_plan_can_be_carried_out_again(model, plan):
    """What an export wrote is a plan for the same model."""
    assert {layer.lowering for layer in plan.layers.values()} == {"folded", "sliced", "split"}
    assert_right(model, build_graph(model).plan)
    assert_right(model, plan)


def test_every_fold_is_recorded_once_by_its_layers(plan):
    """Up and down meet twice, over the activation and over the residual stream: only the first is a fold."""
    made = [fold for fold in plan.folds if fold.refused is None]
    assert [(fold.writers, fold.readers) for fold in made] == [
        (("query", "key"), ()),
        (("value",), ("output",)),
        (("up",), ("down",)),
    ]


def switch_off(data: Any, writer: str) -> None:
    for fold in data["folds"]:
        if writer in fold["writers"] and fold["refused"] is None:
            fold["refused"] = "not wanted"


@pytest.mark.parametrize(("writer", "layers"), [("query", ("query", "key")), ("value", ("value", "output"))])
def test_a_fold_that_is_switched_off_is_not_made(model, plan, writer, layers):
    data = edited(plan.choose({layers[0]: "absorbed", layers[1]: "selector"}))
    switch_off(data, writer)
    built = assert_right(model, Plan.from_dict(data))
    assert f"{layers[0]}.place_of" in built.graph.initializers


@pytest.mark.parametrize(("lowering", "reason"), [("folded", "the order of its outputs is fixed"), ("split", None)])
def test_a_form_that_needs_a_fold_that_is_switched_off(model, plan, lowering, reason):
    data = edited(plan)
    if reason is None:
        data["layers"]["up"]["lowering"], reason = "absorbed", "its inputs do not come from layers that keep the same"
    name = "up" if lowering == "folded" else "down"
    switch_off(data, "up")
    with pytest.raises(LosparseError, match=f"lowering {lowering!r} cannot be used for {name!r}: {reason}"):
        build_graph(model, plan=Plan.from_dict(data))


def fold_of(data: Any, writer: str) -> Any:
    return next(fold for fold in data["folds"] if writer in fold["writers"])


def test_a_fold_can_be_switched_on_again_and_a_plan_made_without_it_stands(model, plan):
    """Orders may be those with the fold, which the edited file has, or those without, which such a model has."""
    data = edited(plan.choose({"up": "absorbed", "down": "columns"}))
    switch_off(data, "up")
    off = Plan.from_dict(data)
    assert_right(model, off)
    graph = model.clone()
    fold_model(graph, skip=[(("up",), ("down",))])
    without = plan_model(graph, folds=off.folds)
    assert without.layers["up"].spec.order != off.layers["up"].spec.order
    assert_right(model, without)
    fold_of(data, "up")["refused"] = None
    assert_right(model, Plan.from_dict(data))


_NOT_THERE = {"writers": ["nobody"], "readers": ["none"], "blocks": 1, "refused": "not wanted"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["folds"].clear(), "says nothing about the fold of 'output' and 'query', 'key', 'value'"),
        (lambda data: data["folds"].remove(fold_of(data, "up")), "says nothing about the fold of 'up' and 'down'"),
        (lambda data: fold_of(data, "value").update(blocks=99), "fold of 'value' and 'output' has blocks 99, the mod"),
        (lambda data: fold_of(data, "up").update(readers=["output"]), "a fold of 'up' and 'output', which the model"),
        (lambda data: data["folds"].append(_NOT_THERE), "a fold of 'nobody' and 'none', which the model has not"),
        (lambda data: data["folds"].append(fold_of(data, "up")), "fold of 'up' and 'down' has blocks 1, 1, the model"),
        (lambda data: data["layers"]["up"].update(order=None), r"order of layer 'up' is not the model's \(Order\(side"),
        (lambda data: data["layers"]["value"]["order"].update(first=2), "order of layer 'value' is not the model's"),
    ],
)
def test_edits_that_would_change_nothing(model, plan, edit, message):
    data = edited(plan.choose(dict.fromkeys(plan.layers, "dense")))
    edit(data)
    with pytest.raises(LosparseError, match=f"^the plan.*{message}.*; of a plan, edit the lowering and precision of"):
        build_graph(model, plan=Plan.from_dict(data))


def test_a_fold_that_cannot_be_made_is_not_asked_for(model, plan):
    data = edited(plan)
    blocked = next(fold for fold in data["folds"] if fold["refused"] is not None)
    reason, blocked["refused"] = blocked["refused"], None
    with pytest.raises(LosparseError, match=rf"^the plan's fold of .* cannot be made \({re.escape(reason)}\); of a"):
        build_graph(model, plan=Plan.from_dict(data))


def test_a_plan_made_before_folding(model):
    """It knows no order, so its forms need none, and every fold is made all the same."""
    plan = prefer(plan_model(model), "absorbed", "columns")
    assert plan.folds == () and {layer.spec.order for layer in plan.layers.values()} == {None}
    assert_right(model, plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lowering": "fast"}, r"layers\['up'\].lowering must be one of constant, .*, got 'fast'"),
        ({"lowering": "low_rank"}, "lowering 'low_rank' cannot be used for 'up': the layer has a sparse part"),
        ({"lowering": "split"}, r"lowering 'split' cannot be used for 'up': the layer keeps rows \(axis 'out'\)"),
        ({"rank": 1}, "the plan is for another 'up': it has 8x6, rank 1, kept 3, axis 'out', the model 8x6, rank 2, "),
        ({"axis": "in"}, "the plan is for another 'up': it has 8x6, rank 2, kept 3, axis 'in', the model 8x6, "),
    ],
)
def test_edits_that_do_not_suit_a_layer(model, plan, change, message):
    data = edited(plan)
    data["layers"]["up"].update(change)
    with pytest.raises(LosparseError, match=message):
        build_graph(model, plan=Plan.from_dict(data))


def test_a_layer_too_few_and_one_too_many(model, plan):
    data = edited(plan)
    layer = data["layers"].pop("up")
    with pytest.raises(LosparseError, match="the plan says nothing about layer 'up'; make a plan for this model"):
        build_graph(model, plan=Plan.from_dict(data))
    data["layers"] |= {"up": layer, "upper": layer}
    with pytest.raises(LosparseError, match="the plan has layer 'upper', which the model has not; make a plan"):
        build_graph(model, plan=Plan.from_dict(data))


def test_a_plan_of_a_model_that_keeps_other_neurons(plan):
    """Sizes agree, orders do not: the layer whose form is not possible is named."""
    with pytest.raises(LosparseError, match="'split' cannot be used for 'down': its inputs do not come from layers"):
        build_graph(block(up_kept=[0, 2, 3]), plan=plan)


def test_the_model_is_not_changed(model, plan):
    before = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    build_graph(model, plan=plan)
    assert {shape.order for shape in shapes_of(model).values()} == {None}
    assert all((before[name] == value.const_value.numpy()).all() for name, value in model.graph.initializers.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": True}, r"^plan= \(--plan\) says what every layer becomes, so tune=True \(--tune\) would"),
        ({"calls": Call()}, r"so calls= \(--batch, --length, --threads\) would change nothing; give one$"),
        (
            {"plan": None, "calls": Call(threads=3)},
            r"^the threads of calls= matter to tune=True \(--tune\) alone, got 3",
        ),
        ({"plan": None, "calls": 128}, r"^calls must be a Call, or pairs of a Call and its weight, .*, got 128$"),
    ],
)
def test_nothing_that_is_asked_for_is_left_out_in_silence(plan, tmp_path, options, message):
    """Refused before the model is opened: the plan was kept, or replaced by the dense one, and tuning skipped."""
    with pytest.raises(LosparseError, match=message):
        export_model(tmp_path / "no model", tmp_path / "out", **{"plan": plan, **options})


def test_a_plan_for_another_target(model):
    plan = replace(build_graph(model).plan, target="phone")
    with pytest.raises(
        LosparseError, match=r"^the plan is for target 'phone', this export is for 'cpu'; export for .*--target phone"
    ):
        build_graph(model, plan=plan)
    assert Plan.from_dict(plan.to_dict()) == plan  # which can be read all the same


def test_a_plan_for_another_precision(model):
    plan = build_graph(model, precision="int8").plan
    with pytest.raises(LosparseError, match="the plan is for precision 'int8', this export plans for 'fp32'"):
        build_graph(model, plan=plan)


def test_a_plan_for_another_model_is_refused():
    graph = layer_graph(make_layer(8, 6, rank=2, kept=3))
    shape = plan_model(graph).layers[LAYER].spec
    for layers, message in [
        ({}, "the plan says nothing about layer"),
        ({LAYER: shape, "other": shape}, "the plan has layer 'other', which the model has not"),
        ({LAYER: PlannedLayer(8, 6, 1, 3, "out")}, "the plan is for another"),
    ]:
        with pytest.raises(LosparseError, match=message):
            lower_model(graph.clone(), plan_layers(layers))


def test_a_form_that_does_not_apply_is_refused():
    graph = layer_graph(make_layer(8, 6, rank=2, kept=3))
    data = plan_model(graph).to_dict()
    data["layers"][LAYER]["lowering"] = "low_rank"  # as an edited file may say
    with pytest.raises(LosparseError, match=r"lowering 'low_rank' cannot be used .* has a sparse part"):
        lower_model(graph, Plan.from_dict(data))
