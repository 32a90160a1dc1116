"""Every form of a layer: where it applies, why it does not elsewhere, and that it computes what the layer computes.

Tolerance 1e-5: weights and inputs of magnitude 1, sums of a dozen terms in two steps, so outputs of magnitude
10 at most, whose rounding is a few units of 1e-6. A misplaced row is off by 0.1 and more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.layers.factored import FactoredLinear
from losparse_export import LOWERINGS, Call, Counts, PlannedLayer, lower_model, plan_model
from losparse_export.graph.node import DOMAIN
from losparse_export.target import CPU

from .blocks import finish_model
from .builders import LAYER, layer_graph, make_layer, run_graph

ATOL = 1e-5


def lowered(layer: FactoredLinear, lowering: str, **graph_options: Any) -> Any:
    """Return the nodes of the form alone: the passes behind it rewrite sums and stack products."""
    graph = layer_graph(layer, **graph_options)
    return lower_model(graph, plan_model(graph).choose({LAYER: lowering}))


def assert_same(layer: FactoredLinear, lowering: str, *leading: int, **graph_options: Any) -> Any:
    model = lowered(layer, lowering, axes=len(leading) + 1, **graph_options)
    x = torch.rand(*leading, layer.in_features, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = layer(x).numpy()
    for form in (model, finish_model(model.clone(), Call(length=4)), finish_model(model.clone(), Call(length=4096))):
        (actual,) = run_graph(form, {"x": x.numpy()})
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ATOL)
    return model


# lowering, (out, in, rank, kept, axis), operators in order
FIRES = [
    ("constant", (5, 4, 0, 0, "out"), ["Shape", "Concat", "Expand"]),
    ("dense", (8, 6, 2, 3, "out"), ["MatMul", "Add"]),
    ("dense", (8, 6, 2, 3, "in"), ["MatMul", "Add"]),
    ("dense", (8, 6, 0, 0, "out"), ["MatMul", "Add"]),
    ("low_rank", (8, 6, 2, 0, "out"), ["MatMul", "MatMul", "Add"]),
    ("low_rank", (8, 6, 2, 0, "in"), ["MatMul", "MatMul", "Add"]),
    ("selector", (8, 6, 2, 3, "out"), ["MatMul", "MatMul", "Add"]),
    ("selector", (8, 6, 2, 3, "in"), ["MatMul", "MatMul", "Add"]),
    ("selector", (8, 6, 0, 3, "out"), ["MatMul", "MatMul", "Add"]),
    ("selector", (8, 6, 0, 3, "in"), ["MatMul", "MatMul", "Add"]),
    ("selector", (8, 6, 2, 8, "out"), ["MatMul", "MatMul", "Add"]),
    (
        "gather",
        (8, 6, 2, 3, "out"),
        ["MatMul", "Pad", "Transpose", "Gather", "Transpose", "MatMul", "MatMul", "Add", "Add"],
    ),
    ("gather", (8, 6, 0, 3, "out"), ["MatMul", "Pad", "Transpose", "Gather", "Transpose", "Add"]),
    ("gather", (8, 6, 0, 8, "out"), ["MatMul", "Pad", "Transpose", "Gather", "Transpose", "Add"]),
    (
        "absorbed",
        (8, 6, 2, 3, "out"),
        ["MatMul", "MatMul", "MatMul", "Concat", "Transpose", "Gather", "Transpose", "Add"],
    ),
    ("absorbed", (8, 6, 2, 8, "out"), ["MatMul", "Transpose", "Gather", "Transpose", "Add"]),
    ("columns", (8, 6, 2, 3, "in"), ["MatMul", "Gather", "Concat", "MatMul", "Add"]),
    ("columns", (8, 6, 0, 3, "in"), ["Gather", "MatMul", "Add"]),
    ("columns", (8, 6, 2, 6, "in"), ["MatMul", "Gather", "Concat", "MatMul", "Add"]),
]


@pytest.mark.parametrize(("lowering", "sizes", "operators"), FIRES)
@pytest.mark.parametrize("bias", [True, False])
def test_fires(lowering, sizes, operators, bias):
    torch.manual_seed(0)
    out, in_, rank, kept, axis = sizes
    layer = make_layer(out, in_, rank=rank, kept=kept, axis=axis, bias=bias)
    model = assert_same(layer, lowering, 2, 5)
    expected = operators if bias or lowering == "constant" else operators[:-1]
    assert sorted(node.op_type for node in model.graph) == sorted(expected)
    assert model.graph.opset_imports == {"": 23}  # standard operators only
    if bias and lowering != "constant":
        last = model.graph[-1]
        assert last.op_type == "Add" and last.inputs[1].name == f"{LAYER}.bias"


REFUSES = [
    ("constant", (8, 6, 2, 0, "out"), "the layer has weights (rank 2, kept 0)"),
    ("constant", (8, 6, 0, 1, "in"), "the layer has weights (rank 0, kept 1)"),
    ("low_rank", (8, 6, 2, 1, "out"), "the layer has a sparse part (kept 1)"),
    ("low_rank", (8, 6, 0, 0, "out"), "the layer has no low-rank part (rank 0)"),
    ("selector", (8, 6, 2, 0, "out"), "the layer has no sparse part (kept 0)"),
    ("gather", (8, 6, 2, 0, "out"), "the layer has no sparse part (kept 0)"),
    ("gather", (8, 6, 2, 3, "in"), "the layer keeps columns (axis 'in'): there are no rows to place"),
    ("absorbed", (8, 6, 2, 0, "out"), "the layer has no sparse part (kept 0)"),
    ("absorbed", (8, 6, 2, 3, "in"), "the layer keeps columns (axis 'in'): there are no rows to absorb"),
    ("absorbed", (8, 6, 0, 3, "out"), "the layer has no low-rank part (rank 0) to absorb rows from"),
    ("columns", (8, 6, 2, 0, "in"), "the layer has no sparse part (kept 0)"),
    ("columns", (8, 6, 2, 3, "out"), "the layer keeps rows (axis 'out'): there are no columns to pick"),
]


@pytest.mark.parametrize(("lowering", "sizes", "reason"), REFUSES)
def test_refuses(lowering, sizes, reason):
    assert CPU.lowering(lowering).check(PlannedLayer(*sizes)) == reason


@st.composite
def layers(draw: st.DrawFn) -> FactoredLinear:
    out, in_ = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    axis = draw(st.sampled_from(["out", "in"]))
    kept = sorted(draw(st.sets(st.integers(0, (out if axis == "out" else in_) - 1))))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    return make_layer(
        out, in_, rank=draw(st.integers(0, min(out, in_))), kept=kept, axis=axis, bias=draw(st.booleans())
    )


@settings(max_examples=80, deadline=None)
@given(layers(), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_every_form_that_applies_is_the_layer(layer, leading):
    shape = PlannedLayer(layer.out_features, layer.in_features, layer.rank, layer.kept_count, layer.axis)
    applying = [lowering.NAME for lowering in LOWERINGS if lowering.check(shape) is None]
    assert "dense" in applying
    for lowering in applying:
        assert_same(layer, lowering, *leading)


@pytest.mark.parametrize("lowering", ["selector", "gather", "absorbed", "dense"])
def test_opset_18(lowering):
    torch.manual_seed(0)
    assert_same(make_layer(8, 6, rank=2, kept=3), lowering, 2, 5, opset=18)


@pytest.mark.parametrize("lowering", ["gather", "absorbed"])
def test_placing_without_a_known_number_of_axes(lowering):
    torch.manual_seed(0)
    layer = make_layer(8, 6, rank=2, kept=3)
    model = lowered(layer, lowering, axes=None)
    assert [node.attributes["axis"].as_int() for node in model.graph if node.op_type == "Gather"] == [-1]
    x = torch.rand(4, 6)
    with torch.no_grad():
        np.testing.assert_allclose(run_graph(model, {"x": x.numpy()})[0], layer(x).numpy(), rtol=0, atol=ATOL)


def test_selector_and_gather_store_the_weights_as_they_are():
    torch.manual_seed(0)
    layer = make_layer(8, 6, rank=2, kept=[1, 4, 7])
    stored = {name: value.const_value.numpy() for name, value in lowered(layer, "gather").graph.initializers.items()}
    assert np.array_equal(stored[f"{LAYER}.rows_t"], layer.sparse.detach().numpy().T)
    assert np.array_equal(stored[f"{LAYER}.place_of"], [3, 0, 3, 3, 1, 3, 3, 2])
    second = lowered(layer, "selector").graph.initializers[f"{LAYER}.second_t"].const_value.numpy()
    assert np.array_equal(second[:2], layer.u.detach().numpy().T)
    assert np.array_equal(second[2:], np.eye(8)[[1, 4, 7]])


@pytest.mark.parametrize(
    ("lowering", "sizes", "multiply_adds", "counts"),
    [
        ("dense", (8, 6, 2, 3, "out"), 48, {"nodes": 1}),
        ("low_rank", (8, 6, 2, 0, "out"), 28, {"nodes": 2}),
        ("selector", (8, 6, 2, 3, "out"), 5 * 14, {"nodes": 2}),
        ("selector", (8, 6, 2, 3, "in"), 5 * 14, {"nodes": 2}),
        # 28 + 18; copied: 3 padded, 8 added; moved: 3 by the first Transpose, 8 each by the Gather and the second one
        ("gather", (8, 6, 2, 3, "out"), 46, {"nodes": 8, "elements": 3 + 8, "moved": 19}),
        ("gather", (8, 6, 0, 3, "out"), 18, {"nodes": 5, "elements": 3, "moved": 19}),
        # 3 rows of 6, v 2 x 6, u of the 5 others x 2; copied: 8 joined; moved: 8 by each of three nodes
        ("absorbed", (8, 6, 2, 3, "out"), 18 + 12 + 10, {"nodes": 7, "elements": 8, "moved": 24}),
        # 28 + 24; copied: 5 joined; picked: 3
        ("columns", (8, 6, 2, 3, "in"), 52, {"nodes": 4, "elements": 5, "gathered": 3}),
        ("constant", (8, 6, 0, 0, "out"), 0, {"nodes": 3, "elements": 8}),
    ],
)
def test_counts(lowering, sizes, multiply_adds, counts):
    counted = CPU.lowering(lowering).cost(PlannedLayer(*sizes))
    assert sum(inputs * outputs for inputs, outputs in counted.products) == multiply_adds
    assert replace(counted, products=()) == Counts(**counts)


def test_a_layer_called_twice_is_stored_once():
    torch.manual_seed(0)
    graph = layer_graph(make_layer(8, 8, rank=2, kept=3))
    first = graph.graph[0]
    again = type(first)(
        DOMAIN,
        first.op_type,
        [first.outputs[0], *first.inputs[1:]],
        list(first.attributes.values()),
        metadata_props=dict(first.metadata_props),
    )
    again.outputs[0].name, again.outputs[0].type = "z", first.outputs[0].type
    graph.graph.append(again)
    graph.graph.outputs[0] = again.outputs[0]
    model = finish_model(lower_model(graph, plan_model(graph).choose({LAYER: "selector"})))
    assert sum(node.op_type == "MatMul" for node in model.graph) == 4
    assert set(model.graph.initializers) == {f"{LAYER}.{name}" for name in ("first_t", "second_t", "bias")}
