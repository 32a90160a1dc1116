"""Plans: choices, reasons, JSON both ways, edits, and that they need no torch."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse.layers.spec import PLAN_KEYS
from losparse_export import LOWERINGS, Call, Plan, PlannedLayer, candidates, plan_layers
from losparse_export.graph.layer import Order
from losparse_export.passes import Fold

from ..mutations import VALUES, places, spoiled

FIRST_OUT, FIRST_IN = Order("out", 1, 0, False, True), Order("in", 1, 0, False, True)

# MiniLM's and BERT's layers at keep 0.2 = 0.05 low rank + 0.15 sparse; hand-checked multiply-adds per token at 128
# tokens, where starting a node costs 469, a copied float 16, a moved one 21 and a picked one 300.
CHOICES = [
    # 68 * 768 = 52k and 2 nodes, against 30k, 442 copied and 826 moved floats and 8 nodes: 53k against 58k
    (PlannedLayer(384, 384, 10, 58, "out"), "selector"),
    # 245 * 1920 = 470k against 117k, 1766 copied and 3302 moved floats and 8 nodes: 218k; absorbed 108k, with 1536
    # copied and 4608 moved: 233k
    (PlannedLayer(1536, 384, 15, 230, "out"), "gather"),
    (PlannedLayer(3072, 768, 31, 461, "out"), "gather"),
    # 245 * 1920 = 470k against 117k and 230 picked inputs of 300: 192k
    (PlannedLayer(384, 1536, 15, 230, "in"), "columns"),
    (PlannedLayer(384, 384, 38, 0, "out"), "low_rank"),
    (PlannedLayer(384, 384, 0, 0, "out"), "constant"),
    (PlannedLayer(384, 384, 300, 100, "out"), "dense"),  # stores more than the dense weight
    (PlannedLayer(32, 32, 4, 6, "out"), "dense"),  # too small to gain: starting a second node costs more
    # In order: 48 rows, 10 for the 336 others, 384 floats joined and 4 nodes: 34k against 58 * 768 = 45k
    (PlannedLayer(384, 384, 10, 48, "out", order=Order("out", 12)), "folded"),
    # Kept neurons first on both sides of an activation: 114k and 3 nodes each, nothing copied
    (PlannedLayer(1536, 384, 15, 232, "out", order=FIRST_OUT), "folded"),
    (PlannedLayer(384, 1536, 15, 232, "in", order=FIRST_IN), "split"),
    (PlannedLayer(384, 1536, 15, 232, "in", order=Order("in", 1)), "sliced"),  # another layer reads them whole
    # 100 * 668 multiply-adds, 484 copied floats and two nodes more, against 100 * 768: 76k against 78k
    (PlannedLayer(384, 384, 100, 0, "out", order=Order("out", 1, 0, True)), "pivots_out"),
    (PlannedLayer(384, 384, 100, 0, "in", order=Order("in", 1, 0, True)), "pivots_in"),
    # 38 * 38 multiply-adds saved do not pay for 422 copied floats
    (PlannedLayer(384, 384, 38, 0, "out", order=Order("out", 1, 0, True)), "low_rank"),
    # Stored by pivots at keep 0.8, of which the full factors are larger than the weight: 318 * 1152 = 366k against
    # 332k; where the outputs may be put in order, 318 * 834 = 265k, 894 copied floats and 3 nodes more: 281k
    (PlannedLayer(576, 576, 318, 0, "out", pivot_side="out"), "dense"),
    (PlannedLayer(576, 576, 318, 0, "out", pivot_side="out", order=Order("out", 1, 0, True)), "pivots_out"),
    (PlannedLayer(576, 576, 108, 0, "out", pivot_side="in"), "low_rank"),  # keep 0.34: 108 * 1152 = 124k
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
    shape = PlannedLayer(out, in_, min(rank, out, in_), min(kept, out if axis == "out" else in_), axis)
    chosen = plan_layers({"a": shape}, calls=Call(length=tokens)).layers["a"].lowering
    if shape.rank * (in_ + out) + math.prod(shape.sparse_shape) >= shape.dense_parameters:
        assert chosen == "dense"


def test_every_other_form_has_a_reason():
    layer = plan_layers({"a": PlannedLayer(384, 384, 10, 58, "out")}).layers["a"]
    assert set(layer.refused) == {lowering.NAME for lowering in LOWERINGS} - {"selector"}
    assert layer.refused["folded"] == "the order of its outputs is fixed, so its kept rows lie anywhere"
    assert layer.refused["columns"] == "the layer keeps rows (axis 'out'): there are no columns to pick"
    assert layer.refused["dense"].startswith("costs 147,925 multiply-adds per token, selector costs ")


def test_candidates_have_a_cost_or_a_reason():
    listed = candidates(PlannedLayer(8, 6, 2, 3, "in"))
    assert [c.lowering for c in listed if c.cost is not None] == ["dense", "selector", "columns"]
    assert all((c.cost is None) != (c.refused is None) for c in listed)


def test_few_tokens_favour_few_nodes():
    shape = PlannedLayer(768, 768, 19, 115, "out")
    # 15k a node at 4 tokens: 8 of them are more than the 145k multiply-adds they save
    assert plan_layers({"a": shape}, calls=Call(length=4096)).layers["a"].lowering == "gather"
    assert plan_layers({"a": shape}, calls=Call(length=4)).layers["a"].lowering == "selector"


@pytest.fixture
def plan() -> Plan:
    folds = [Fold(("layer.8", "layer.9"), (), 12, None), Fold(("layer.9",), ("layer.10",), 1, "it is read by Softmax")]
    return plan_layers(
        {f"layer.{i}": shape for i, (shape, _) in enumerate(CHOICES)}, calls=Call(length=512), folds=folds
    )


def test_json_round_trip(plan, tmp_path):
    data = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(data) == plan
    (tmp_path / "plan.json").write_text(json.dumps(data))
    assert Plan.read(tmp_path / "plan.json").digest() == plan.digest()
    assert data["layers"]["layer.0"]["shape"] == [384, 384] and data["format"] == 2 and data["tokens"] == 512
    assert data["layers"]["layer.0"]["order"] is None
    order = {"side": "out", "blocks": 12, "first": 0, "pivots": False, "split": False}
    assert data["layers"]["layer.8"]["order"] == order
    assert data["folds"][1] == {
        "writers": ["layer.9"],
        "readers": ["layer.10"],
        "blocks": 1,
        "refused": "it is read by Softmax",
    }


def test_reads_plans_from_before_pivots(plan):
    data = plan.to_dict()
    pivots = {name: layer.pop("pivots") for name, layer in data["layers"].items()}
    assert pivots["layer.15"] == "out" and pivots["layer.14"] is None
    layer = Plan.from_dict(data).layers["layer.15"]
    assert layer.spec.pivot_side is None and layer.lowering == plan.layers["layer.15"].lowering


def test_json_schema_says_what_a_file_may_hold():
    schema = Plan.json_schema()
    kinds, layer = schema["$defs"], schema["$defs"]["LayerEntry"]
    assert [each["$ref"].rpartition("/")[2] for each in schema["anyOf"]] == ["PlanOfTokens", "PlanFile"]
    older, newer = kinds["PlanOfTokens"], kinds["PlanFile"]
    assert list(older["properties"]) == older["required"] == ["format", "tokens", "precision", "folds", "layers"]
    assert newer["required"] == ["format", "target", "calls", "precision", "folds", "layers"]
    assert layer["properties"]["lowering"]["enum"] == [lowering.NAME for lowering in LOWERINGS]
    assert layer["properties"]["rank"] == {
        "type": "integer",
        "minimum": 0,
        "description": "inner width of the low-rank part.",
    }
    assert layer["additionalProperties"] is False
    assert set(PLAN_KEYS) < set(layer["properties"])


def test_digest_follows_the_choices(plan):
    assert plan.choose({"layer.0": "gather"}).digest() != plan.digest()


def test_choose(plan):
    chosen = plan.choose({"layer.0": "gather"})
    assert chosen.layers["layer.0"].lowering == "gather"
    assert chosen.layers["layer.0"].reason == "asked for"
    assert chosen.layers["layer.0"].refused["selector"] == "gather was asked for"
    assert "gather" not in chosen.layers["layer.0"].refused
    assert chosen.layers["layer.1"] == plan.layers["layer.1"]
    assert (chosen.folds, chosen.calls) == (plan.folds, plan.calls)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"nope": "dense"}, "the plan has no layer 'nope'; it has layer.0, layer.1, layer.2 and 15 more"),
        ({"layer.0": "fast"}, "lowering must be one of constant, dense, low_rank, .*, got 'fast'"),
        ({"layer.0": "columns"}, "lowering 'columns' cannot be used for 'layer.0': the layer keeps rows"),
        ({"layer.0": "folded"}, "lowering 'folded' cannot be used for 'layer.0': the order of its outputs is fixed"),
    ],
)
def test_choose_refuses(plan, choice, message):
    with pytest.raises(LosparseError, match=message):
        plan.choose(choice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "plan format is 1, this losparse reads 2 and 3"),
        ({"extra": 1}, "^plan: unknown key 'extra'; allowed: format, tokens, precision, folds, layers$"),
        ({"tokens": 0}, "^plan: tokens must be a whole number of 1 or more, got 0$"),
        ({"tokens": True}, "tokens must be a whole number of 1 or more, got True"),
        ({"folds": {}}, "folds must be a list, got {}"),
        ({"precision": "fp16"}, "precision must be one of fp32, int8, got 'fp16'"),
        ({"layers": {"a": {"lowering": "dense"}}}, r"layers\['a'\].precision is missing; it must be one of fp32, int8"),
        ({"layers": {"a": "dense"}}, r"layers\['a'\] must be a table of keys and values, got 'dense'"),
        ({"token": 1, "tokens": 0}, "unknown key 'token'; did you mean 'tokens'"),
    ],
)
def test_read_refuses(plan, change, message):
    with pytest.raises(LosparseError, match=message):
        Plan.from_dict({**plan.to_dict(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [384]}, r"\.shape\[1\] is missing; it must be a whole number of 0 or more"),
        ({"shape": 384}, r"\.shape must be \[out, in\], two whole numbers, got 384"),
        ({"rank": -1}, r"^plan: layers\['layer.0'\]\.rank must be a whole number of 0 or more, got -1$"),
        ({"kept": True}, "kept must be a whole number of 0 or more, got True"),
        ({"axis": "rows"}, "axis must be one of out, in, got 'rows'"),
        ({"pivots": "rows"}, "pivots must be one of out, in, or null, got 'rows'"),
        ({"refused": {"dense": 1}}, r"refused\['dense'\] must be a text, got 1"),
        ({"refused": "no"}, "refused must be a table of reasons, by form, got 'no'"),
        ({"reason": None}, "reason must be a text, got None"),
        ({"loweringg": "dense"}, r"unknown key \"layers\['layer.0'\].loweringg\"; did you mean 'lowering'"),
        ({"lowering": "fast"}, r"layers\['layer.0'\].lowering must be one of constant, dense, .*, got 'fast'"),
        ({"precision": "fp16"}, r"layers\['layer.0'\].precision must be one of fp32, int8, got 'fp16'"),
        (
            {"order": {"side": "out"}},
            r"layers\['layer.0'\].order.blocks is missing; it must be a whole number of 0 or more",
        ),
        (
            {"order": {**asdict(Order("out")), "blocks": True}},
            "order.blocks must be a whole number of 0 or more, got True",
        ),
        ({"order": "out"}, "order must be a table of keys and values, or null, got 'out'"),
    ],
)
def test_read_refuses_layer(plan, change, message):
    data = plan.to_dict()
    data["layers"]["layer.0"].update(change)
    with pytest.raises(LosparseError, match=message):
        Plan.from_dict(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"unknown key 'folds\[1\].extra'; allowed: writers, readers, blocks, refused"),
        ({"writers": "layer.9"}, r"folds\[1\].writers must be a list of layer names, got 'layer.9'"),
        ({"readers": [1]}, r"folds\[1\].readers\[0\] must be a text, got 1"),
        ({"refused": False}, r"folds\[1\].refused must be a text, or null, got False"),
        ({"blocks": "1"}, r"folds\[1\].blocks must be a whole number of 0 or more, got '1'"),
    ],
)
def test_read_refuses_fold(plan, change, message):
    data = plan.to_dict()
    data["folds"][1].update(change)
    with pytest.raises(LosparseError, match=message):
        Plan.from_dict(data)


def test_any_wrong_value_in_any_place_is_refused_in_one_line(plan):
    data = json.loads(json.dumps(plan.to_dict()))
    data["layers"] = {name: data["layers"][name] for name in ("layer.8", "layer.9")}
    refused = 0
    for place, value in itertools.product(places(data), VALUES):
        try:
            read = Plan.from_dict(spoiled(data, place, value), "plan.json")
        except LosparseError as error:
            refused += 1
            assert str(error).startswith("plan.json: ") and "\n" not in str(error)
            assert not re.search("typing|pydantic|validator|dict|tuple", str(error))
        else:
            assert Plan.from_dict(json.loads(json.dumps(read.to_dict()))) == read
    assert refused > 1000


def test_read_refuses_files(tmp_path):
    with pytest.raises(LosparseError, match="cannot be read"):
        Plan.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(LosparseError, match="not valid JSON"):
        Plan.read(tmp_path / "bad.json")


def test_planning_loads_no_torch():
    code = "import sys; from losparse_export import Plan, plan_layers; print('torch' in sys.modules)"
    path = [p for p in sys.path if p]
    program = f"import sys; sys.path[:0] = {path!r}; {code}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
