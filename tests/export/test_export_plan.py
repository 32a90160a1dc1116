"""Plans: choices, reasons, JSON both ways, edits, and that they need no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse_export import LayerShape, Plan, candidates, lower_model, plan_layers, plan_model

from .builders import LAYER, layer_graph, make_layer

# MiniLM's and BERT's layers at keep 0.2 = 0.05 low rank + 0.15 sparse; hand-checked multiply-adds per token at 128.
CHOICES = [
    (LayerShape(384, 384, 10, 58, "out"), "selector"),  # 68 * 768 = 52k against 30k + 384 placed outputs (37k)
    (LayerShape(1536, 384, 15, 230, "out"), "gather"),  # 245 * 1920 = 470k against 117k + 1536 placed outputs (147k)
    (LayerShape(3072, 768, 31, 461, "out"), "gather"),
    (LayerShape(384, 1536, 15, 230, "in"), "columns"),  # 245 * 1920 = 470k against 117k + 230 picked inputs (73k)
    (LayerShape(384, 384, 38, 0, "out"), "low_rank"),
    (LayerShape(384, 384, 0, 0, "out"), "constant"),
    (LayerShape(384, 384, 300, 100, "out"), "dense"),  # stores more than the dense weight
    (LayerShape(32, 32, 4, 6, "out"), "dense"),  # too small to gain: starting a second node costs more
]


@pytest.mark.parametrize(("shape", "chosen"), CHOICES)
def test_default_choice(shape, chosen):
    layer = plan_layers({"a": shape}).layers["a"]
    assert layer.lowering == chosen
    assert "multiply-adds per token" in layer.reason and "128 tokens" in layer.reason


@given(
    st.integers(1, 600),
    st.integers(1, 600),
    st.integers(0, 600),
    st.integers(0, 600),
    st.sampled_from(["out", "in"]),
    st.integers(1, 5000),
)
@settings(max_examples=200, deadline=None)
def test_dense_from_break_even_on(out, in_, rank, kept, axis, tokens):
    shape = LayerShape(out, in_, min(rank, out, in_), min(kept, out if axis == "out" else in_), axis)
    chosen = plan_layers({"a": shape}, tokens=tokens).layers["a"].lowering
    if shape.low_rank_parameters + shape.sparse_parameters >= shape.dense_parameters:
        assert chosen == "dense"


def test_every_other_form_has_a_reason():
    layer = plan_layers({"a": LayerShape(384, 384, 10, 58, "out")}).layers["a"]
    assert set(layer.refused) == {"constant", "dense", "low_rank", "gather", "columns"}
    assert layer.refused["columns"] == "the layer keeps rows (axis 'out'): there are no columns to pick"
    assert layer.refused["dense"].startswith("costs 147,925 multiply-adds per token, selector costs ")


def test_candidates_have_a_cost_or_a_reason():
    listed = candidates(LayerShape(8, 6, 2, 3, "in"))
    assert [c.lowering for c in listed if c.cost is not None] == ["dense", "selector", "columns"]
    assert all((c.cost is None) != (c.refused is None) for c in listed)


def test_few_tokens_favour_few_nodes():
    shape = LayerShape(768, 768, 19, 115, "out")
    assert plan_layers({"a": shape}, tokens=4096).layers["a"].lowering == "gather"
    assert plan_layers({"a": shape}, tokens=4).layers["a"].lowering == "selector"


def test_tokens_below_one():
    with pytest.raises(LosparseError, match="tokens must be at least 1, got 0"):
        plan_layers({}, tokens=0)


@pytest.fixture
def plan() -> Plan:
    return plan_layers({f"layer.{i}": shape for i, (shape, _) in enumerate(CHOICES)})


def test_json_round_trip(plan, tmp_path):
    data = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(data) == plan
    (tmp_path / "plan.json").write_text(json.dumps(data))
    assert Plan.read(tmp_path / "plan.json").digest() == plan.digest()
    assert data["layers"]["layer.0"]["shape"] == [384, 384] and data["format"] == 1


def test_digest_follows_the_choices(plan):
    assert plan.choose({"layer.0": "gather"}).digest() != plan.digest()


def test_choose(plan):
    chosen = plan.choose({"layer.0": "gather"})
    assert chosen.layers["layer.0"].lowering == "gather"
    assert chosen.layers["layer.0"].reason == "asked for"
    assert chosen.layers["layer.0"].refused["selector"] == "gather was asked for"
    assert "gather" not in chosen.layers["layer.0"].refused
    assert chosen.layers["layer.1"] == plan.layers["layer.1"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"nope": "dense"}, "the plan has no layer 'nope'; it has layer.0, layer.1, layer.2 and 5 more"),
        ({"layer.0": "fast"}, "lowering must be one of constant, dense, low_rank, .*, got 'fast'"),
        ({"layer.0": "columns"}, "lowering 'columns' cannot be used for 'layer.0': the layer keeps rows"),
    ],
)
def test_choose_refuses(plan, choice, message):
    with pytest.raises(LosparseError, match=message):
        plan.choose(choice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "plan format is 2, this losparse reads 1"),
        ({"extra": 1}, "must be an object with the keys 'format' and 'layers'"),
        ({"layers": {"a": {"lowering": "dense"}}}, "layer 'a': must be an object with the keys axis, kept, lowering"),
        ({"layers": {"a": "dense"}}, "got str"),
    ],
)
def test_read_refuses(plan, change, message):
    with pytest.raises(LosparseError, match=message):
        Plan.from_dict({**plan.to_dict(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [384]}, r"shape must be \[out, in\]"),
        ({"rank": -1}, "whole numbers >= 0"),
        ({"kept": True}, "whole numbers >= 0"),
        ({"axis": "rows"}, "axis must be 'out' or 'in', got 'rows'"),
        ({"refused": {"dense": 1}}, "refused an object of texts"),
        ({"lowering": "fast"}, "layer 'layer.0': lowering must be one of"),
    ],
)
def test_read_refuses_layer(plan, change, message):
    data = plan.to_dict()
    data["layers"]["layer.0"].update(change)
    with pytest.raises(LosparseError, match=message):
        Plan.from_dict(data)


def test_read_refuses_files(tmp_path):
    with pytest.raises(LosparseError, match="cannot be read"):
        Plan.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(LosparseError, match="not valid JSON"):
        Plan.read(tmp_path / "bad.json")


def test_a_plan_for_another_model_is_refused():
    graph = layer_graph(make_layer(8, 6, rank=2, kept=3))
    shape = plan_model(graph).layers[LAYER].shape
    for layers, message in [
        ({}, "the plan says nothing about layer"),
        ({LAYER: shape, "other": shape}, "the plan has layer 'other', which the model has not"),
        ({LAYER: LayerShape(8, 6, 1, 3, "out")}, "the plan is for another"),
    ]:
        with pytest.raises(LosparseError, match=message):
            lower_model(graph.clone(), plan_layers(layers))


def test_a_form_that_does_not_apply_is_refused():
    graph = layer_graph(make_layer(8, 6, rank=2, kept=3))
    data = plan_model(graph).to_dict()
    data["layers"][LAYER]["lowering"] = "low_rank"  # as an edited file may say
    with pytest.raises(LosparseError, match=r"lowering 'low_rank' cannot be used .* has a sparse part"):
        lower_model(graph, Plan.from_dict(data))


def test_planning_loads_no_torch():
    code = "import sys; from losparse_export import Plan, plan_layers; print('torch' in sys.modules)"
    path = [p for p in sys.path if p]
    program = f"import sys; sys.path[:0] = {path!r}; {code}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
