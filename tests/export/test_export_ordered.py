"""Forms for layers that `fold_model` put in order: where they apply, why they do not elsewhere, and the same numbers.

Tolerance 1e-5, scaled with outputs above 1: two or three layers of weights of magnitude 0.3 and sums of at most 8
terms, whose rounding is a few units of 1e-7; the entries of a pivot's combination, below 10, make 1e-6 of it. A feature
in another's place is off by 0.1 and more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from losparse_export import Call, Counts, PlannedLayer
from losparse_export.graph.layer import Order
from losparse_export.passes import fold_model
from losparse_export.target import CPU

from .blocks import (
    Blocks,
    assert_equal_outputs,
    attention_block,
    dense_outputs,
    feed_forward,
    feeds_for,
    finish_model,
    lowered_to,
    operators,
)
from .builders import make_layer

ATOL = 1e-5
HEADS = [1, 3, 5, 7]  # dimensions 1 and 3 of each of two heads
ALL = list(range(8))
KEPT = [1, 4, 6]


# Nothing is left out, so that every form meets what it was made for; `test_export_narrow` has what is left out.
NOTHING_LEFT_OUT = [(("up",), ("down",)), (("value",), ("output",)), (("query", "key"), ())]


def assert_same(model: ir.Model, name: str, lowering: str) -> ir.Model:
    """Fold, lower one layer to a form and the others to merged weights, and compare before and after all passes."""
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    fold_model(model, whole=NOTHING_LEFT_OUT)
    layers = dict.fromkeys(("up", "down") if name in ("up", "down") else ("query", "key", "value", "output"), "dense")
    lowered = lowered_to(model, {**layers, name: lowering})
    assert_equal_outputs(lowered, feeds, expected, ATOL)
    for tokens in (4, 4096):
        assert_equal_outputs(finish_model(lowered.clone(), Call(length=tokens)), feeds, expected, ATOL)
    return lowered


ROWS = ["MatMul", "Add", "MatMul", "MatMul", "Add"]
SPLIT_HEADS, JOIN_HEADS = ["Reshape", "Reshape"], ["Concat", "Reshape"]

# form, layer, graph, settings of the graph, operators of the layer in order
FIRES: list[tuple[str, str, Any, dict[str, Any], list[str]]] = [
    ("folded", "up", feed_forward, {"up_kept": KEPT, "down_kept": KEPT}, [*ROWS, "Concat"]),
    ("folded", "up", feed_forward, {"up_kept": KEPT, "down_kept": [0, 4]}, [*ROWS, "Concat"]),
    ("folded", "up", feed_forward, {"up_kept": 8, "down_kept": 0}, ["MatMul", "Add"]),
    (
        "folded",
        "up",
        feed_forward,
        {"up_kept": KEPT, "down_kept": 0, "ranks": (0, 2)},
        ["MatMul", "Add", "Shape", "Concat", "Expand", "Concat"],
    ),
    (
        "folded",
        "query",
        attention_block,
        {"query": HEADS, "key": HEADS, "value": 0, "output": 0},
        [*ROWS, *SPLIT_HEADS, *JOIN_HEADS],
    ),
    (
        "folded",
        "value",
        attention_block,
        {"query": 0, "key": 0, "value": HEADS, "output": [0, 5]},
        [*ROWS, *SPLIT_HEADS, *JOIN_HEADS],
    ),
    (
        "sliced",
        "down",
        feed_forward,
        {"up_kept": KEPT, "down_kept": KEPT},
        ["Slice", "MatMul", "Concat", "MatMul", "Add"],
    ),
    (  # behind the two that only `up` keeps
        "sliced",
        "down",
        feed_forward,
        {"up_kept": KEPT, "down_kept": [1, 2]},
        ["Slice", "MatMul", "Concat", "MatMul", "Add"],
    ),
    ("sliced", "down", feed_forward, {"up_kept": 0, "down_kept": 8}, ["MatMul", "Concat", "MatMul", "Add"]),
    (
        "sliced",
        "down",
        feed_forward,
        {"up_kept": 0, "down_kept": KEPT, "ranks": (2, 0)},
        ["Slice", "MatMul", "Add"],
    ),
    (
        "sliced",
        "output",
        attention_block,
        {"query": 0, "key": 0, "value": HEADS, "output": HEADS},
        ["Reshape", "Slice", "Reshape", "MatMul", "Concat", "MatMul", "Add"],
    ),
    (
        "split",
        "down",
        feed_forward,
        {"up_kept": KEPT, "down_kept": KEPT},
        ["Slice", "MatMul", "Slice", "MatMul", "MatMul", "Add", "Add"],
    ),
    ("split", "down", feed_forward, {"up_kept": 8, "down_kept": 8}, ["MatMul", "Add"]),
    ("split", "down", feed_forward, {"up_kept": KEPT, "down_kept": KEPT, "ranks": (2, 0)}, ["Slice", "MatMul", "Add"]),
    (
        "pivots_out",
        "up",
        feed_forward,
        {"up_kept": KEPT, "down_kept": KEPT},
        ["MatMul", "Add", "Slice", "MatMul", "Add", "Concat"],
    ),
    ("pivots_out", "up", feed_forward, {"up_kept": 0, "down_kept": 0}, ["MatMul", "Add", "MatMul", "Add", "Concat"]),
    # 6 kept and 2 pivots are all 8
    ("pivots_out", "up", feed_forward, {"up_kept": ALL[:6], "down_kept": ALL[:6]}, ["MatMul", "Add"]),
    (
        "pivots_in",
        "down",
        feed_forward,
        {"up_kept": KEPT, "down_kept": KEPT, "ranks": (2, 3)},
        ["Slice", "Slice", "MatMul", "Add", "Slice", "Concat", "MatMul", "Add"],
    ),
    (
        "pivots_in",
        "down",
        feed_forward,
        {"up_kept": 0, "down_kept": 0, "ranks": (2, 3)},
        ["Slice", "Slice", "MatMul", "Add", "MatMul", "Add"],
    ),
    (
        "pivots_in",
        "down",
        feed_forward,
        {"up_kept": KEPT, "down_kept": KEPT, "ranks": (2, 5)},
        ["Slice", "Slice", "Concat", "MatMul", "Add"],  # 3 kept and 5 pivots are all 8
    ),
]


@pytest.mark.parametrize(("lowering", "name", "graph", "settings", "expected"), FIRES)
@pytest.mark.parametrize("bias", [True, False])
def test_fires(lowering, name, graph, settings, expected, bias):
    lowered = assert_same(graph(**settings, bias=bias), name, lowering)
    found = operators(lowered, name)
    if bias:
        assert found == expected
    else:  # of the sums only those of two products stay
        assert [op for op in found if op != "Add"] == [op for op in expected if op != "Add"]
        assert found.count("Add") == (name == "down" and expected.count("Add") == 2)


@pytest.mark.parametrize(
    ("lowering", "name", "ranks"),
    [("folded", "up", (2, 2)), ("sliced", "down", (2, 2)), ("split", "down", (2, 2)), ("pivots_in", "down", (2, 3))],
)
def test_opset_18(lowering, name, ranks):
    """There a Gelu is four nodes, and they are split or reordered with the features."""
    assert_same(feed_forward(KEPT, KEPT, ranks=ranks, opset=18), name, lowering)


KEEPS_ROWS, KEEPS_COLUMNS = (8, 6, 2, 3, "out"), (8, 6, 2, 3, "in")
OUT, IN = Order("out", 1, 0, True, True), Order("in", 1, 0, True, True)
ANYWHERE_OUT = "the order of its outputs is fixed, so its kept rows lie anywhere"
ANYWHERE_IN = "the order of its inputs is fixed, so its kept columns lie anywhere"
APART = "its inputs do not come from layers that keep the same neurons"
NO_PIVOTS = "no pivots were put in place: they need one block of {}, and partners that keep the same ones"

REFUSES = [
    ("folded", (8, 6, 2, 0, "out"), OUT, "the layer has no sparse part (kept 0)"),
    ("folded", KEEPS_COLUMNS, IN, "the layer keeps columns (axis 'in'): there are no rows to put first"),
    ("folded", KEEPS_ROWS, None, ANYWHERE_OUT),
    ("folded", KEEPS_ROWS, IN, ANYWHERE_OUT),
    ("folded", KEEPS_ROWS, Order("out", 0), "its kept rows differ from head to head, so they lie in no regular way"),
    ("folded", KEEPS_ROWS, Order("out", 2, 1), "a partner's kept neurons come before its own"),
    ("sliced", (8, 6, 2, 0, "in"), IN, "the layer has no sparse part (kept 0)"),
    ("sliced", KEEPS_ROWS, OUT, "the layer keeps rows (axis 'out'): there are no columns to slice"),
    ("sliced", KEEPS_COLUMNS, None, ANYWHERE_IN),
    ("sliced", KEEPS_COLUMNS, OUT, ANYWHERE_IN),
    (
        "sliced",
        KEEPS_COLUMNS,
        Order("in", 0),
        "its kept columns differ from head to head, so they lie in no regular way",
    ),
    ("split", (8, 6, 2, 0, "in"), IN, "the layer has no sparse part (kept 0)"),
    ("split", KEEPS_ROWS, OUT, "the layer keeps rows (axis 'out'): its inputs are read whole"),
    ("split", KEEPS_COLUMNS, None, APART),
    ("split", KEEPS_COLUMNS, OUT, APART),
    ("split", KEEPS_COLUMNS, Order("in", 1, 0, True, False), APART),
    ("pivots_out", (8, 6, 0, 3, "out"), OUT, "the layer has no low-rank part (rank 0)"),
    ("pivots_out", KEEPS_COLUMNS, OUT, "the layer keeps columns (axis 'in')"),
    ("pivots_out", KEEPS_ROWS, None, "the order of its outputs is fixed"),
    ("pivots_out", KEEPS_ROWS, IN, "the order of its outputs is fixed"),
    ("pivots_out", KEEPS_ROWS, Order("out", 1), NO_PIVOTS.format("outputs")),
    ("pivots_out", KEEPS_ROWS, Order("out", 1, 1, True), NO_PIVOTS.format("outputs")),
    ("pivots_in", (8, 6, 0, 3, "in"), IN, "the layer has no low-rank part (rank 0)"),
    ("pivots_in", KEEPS_ROWS, IN, "the layer keeps rows (axis 'out')"),
    ("pivots_in", KEEPS_COLUMNS, None, "the order of its inputs is fixed"),
    ("pivots_in", KEEPS_COLUMNS, OUT, "the order of its inputs is fixed"),
    ("pivots_in", KEEPS_COLUMNS, Order("in", 1), NO_PIVOTS.format("inputs")),
    ("pivots_in", KEEPS_COLUMNS, Order("in", 1, 1, True), NO_PIVOTS.format("inputs")),
]


@pytest.mark.parametrize(("lowering", "sizes", "order", "reason"), REFUSES)
def test_refuses(lowering, sizes, order, reason):
    assert CPU.lowering(lowering).check(PlannedLayer(*sizes, order=order)) == reason


WHOLE = Order("out", 1, 0, True, False)


@pytest.mark.parametrize(
    ("lowering", "sizes", "order", "multiply_adds", "elements", "nodes"),
    [
        # 3 rows of 6, v 2 x 6, u of the 5 others x 2; 8 joined, unless the Concat disappears
        ("folded", KEEPS_ROWS, WHOLE, 18 + 12 + 10, 8, 4),
        ("folded", KEEPS_ROWS, OUT, 18 + 12 + 10, 0, 3),
        # v 2 x 6, then 2 + 3 inner features for 8 outputs; 3 sliced, 5 joined
        ("sliced", KEEPS_COLUMNS, IN, 12 + 40, 3 + 5, 4),
        ("sliced", (8, 6, 0, 3, "in"), IN, 24, 3, 2),
        # 3 columns of 8, v of the 3 others x 2, u 8 x 2
        ("split", KEEPS_COLUMNS, IN, 24 + 6 + 16, 0, 3),
        # 3 + 2 rows of 6, the 3 others from 2 pivots; 2 sliced, 8 joined
        ("pivots_out", KEEPS_ROWS, OUT, 30 + 6, 2 + 8, 4),
        # one pivot from 2 others, then 1 + 3 inner features for 8 outputs; all 6 sliced, 1 added, 4 joined
        ("pivots_in", (8, 6, 1, 3, "in"), IN, 2 + 32, 6 + 1 + 4, 7),
        # two pivots from 4 others, then 8 outputs of 2; all 6 sliced, 2 added
        ("pivots_in", (8, 6, 2, 0, "in"), IN, 8 + 16, 6 + 2, 5),
    ],
)
def test_counts(lowering, sizes, order, multiply_adds, elements, nodes):
    counted = CPU.lowering(lowering).cost(PlannedLayer(*sizes, order=order))
    assert sum(inputs * outputs for inputs, outputs in counted.products) == multiply_adds
    assert replace(counted, products=()) == Counts(nodes=nodes, elements=elements)


def hand_layer(u: list[list[float]], v: list[list[float]], bias: list[float] | None) -> Any:
    layer = make_layer(len(u), len(v[0]), rank=len(v), kept=0, bias=bias is not None)
    return layer.copy_(u=torch.tensor(u), v=torch.tensor(v), bias=None if bias is None else torch.tensor(bias))


def test_pivots_of_outputs_by_hand():
    """Row 0 of u is half of each other row: pivots are rows 1 and 2, and y0 = (y1 + y2) / 2 but for the bias."""
    b = Blocks()
    up = hand_layer([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0, 2.0])
    model = b.model(b.layer(b.op("Relu", b.layer(b.input(2), up, "up")), make_layer(4, 3, rank=0, kept=3), "down"))
    fold_model(model)
    stored = lowered_to(model, {"up": "pivots_out"}).graph.initializers
    np.testing.assert_allclose(stored["up.combine_t"].const_value.numpy().T, [[0.5, 0.5]], rtol=1e-6)
    assert stored["up.first_t"].const_value.numpy().T.tolist() == [[2.0, 0.0], [0.0, 2.0]]
    assert stored["up.first_t_bias"].const_value.numpy().tolist() == [1.0, 2.0]
    np.testing.assert_allclose(stored["up.combine_t_bias"].const_value.numpy(), [3.0 - (1.0 + 2.0) / 2], rtol=1e-6)


def test_pivots_of_inputs_by_hand():
    """Column 1 of v is the sum of the others halved: x1 acts as half of itself through each of inputs 0 and 2."""
    b = Blocks()
    down = hand_layer([[1.0, 0.0], [0.0, 3.0]], [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], None)
    model = b.model(b.layer(b.op("Relu", b.layer(b.input(2), make_layer(3, 2, rank=1, kept=0), "up")), down, "down"))
    fold_model(model)
    stored = lowered_to(model, {"down": "pivots_in"}).graph.initializers
    np.testing.assert_allclose(stored["down.combine_t"].const_value.numpy().T, [[0.5], [0.5]], rtol=1e-6)
    assert stored["down.second_t"].const_value.numpy().T.tolist() == [[2.0, 0.0], [0.0, 6.0]]
