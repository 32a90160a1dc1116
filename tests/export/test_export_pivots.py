"""Layers stored by pivots: read as full factors, folded with their own pivots, exported with the same outputs.

Tolerance 1e-5, scaled with outputs above 1, as in `test_export_fold`: rounding is near 1e-6, a feature in another's
place is off by 0.01 and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from losparse import inspect_folder
from losparse.layers.factored import FactoredLinear
from losparse.layers.pivots import to_pivots
from losparse.methods import LoSparse
from losparse.random_factors import random_factors_
from losparse_export import Plan, TaskModel, lower_model, trace_model
from losparse_export.graph.node import find_factored
from losparse_export.passes import fold_model
from losparse_export.planning.choose import plan_model
from losparse_export.target import prepare_model
from losparse_export.tracing.factors import replace_factors
from losparse_runtime.contract.task import TASKS

from ..pivoting import store_pivots_
from .blocks import Blocks, assert_equal_outputs, dense_outputs, every_plan, feeds_for, finish_model, lowered_to, prefer
from .builders import LAYER, build_model, layer_graph, make_layer

ATOL = 1e-5


def make_pivots(out: int, in_: int, side: Any, *, rank: int = 3, kept: Any = 2, axis: str = "out") -> FactoredLinear:
    torch.manual_seed(0)
    return to_pivots(make_layer(out, in_, rank=rank, kept=kept, axis=axis), side)


@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize(
    ("side", "out", "in_", "rank"),
    [("out", 8, 6, 3), ("in", 8, 6, 3), ("out", 8, 6, 1), ("in", 8, 6, 5), ("out", 6, 8, 6), ("in", 8, 6, 6)],
)
def test_read_as_full_factors(side, out, in_, rank, axis):
    layer = make_pivots(out, in_, side, rank=rank, axis=axis)
    (found,) = find_factored(layer_graph(layer))
    u, v = (factor.detach().numpy() for factor in layer.factors())
    np.testing.assert_array_equal(found.whole_u, u)
    np.testing.assert_array_equal(found.whole_v, v)
    assert found.spec.pivot_side == side and found.pivots.tolist() == layer.pivots.tolist()
    # merged in double precision here, in fp32 there: sums of at most 7 numbers of O(1)
    np.testing.assert_allclose(found.dense_weight(), layer.dense_weight().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["out", "in"])
def test_random_factors_may_replace_pivots_and_the_other_way_round(side):
    torch.manual_seed(0)
    plain, pivots = make_layer(8, 6, rank=2, kept=0), make_pivots(8, 6, side)
    for first, second in ((plain, pivots), (pivots, plain)):
        (found,) = find_factored(replace_factors(layer_graph(first), {LAYER: second}))
        assert found.spec.pivot_side == second.pivot_side
        np.testing.assert_allclose(found.dense_weight(), second.dense_weight().numpy(), rtol=0, atol=1e-6)  # as above


def feed_forward(sides: tuple[Any, Any], kept: tuple[Any, Any], ranks: tuple[int, int]) -> ir.Model:
    """x (tokens, 6) -> up (8, 6) -> Gelu -> down (5, 8) -> y0."""
    b = Blocks()
    up = make_pivots(8, 6, sides[0], rank=ranks[0], kept=kept[0])
    down = make_pivots(5, 8, sides[1], rank=ranks[1], kept=kept[1], axis="in")
    return b.model(b.layer(b.op("Gelu", b.layer(b.input(6), up, "up")), down, "down"))


@pytest.mark.parametrize("sides", [("out", "in"), ("in", "out"), ("out", "out"), ("in", "in")])
@pytest.mark.parametrize("kept", [(0, 0), ([1, 4], [1, 4]), ([0, 6], [2, 3, 5])])
@pytest.mark.parametrize("ranks", [(3, 2), (1, 4), (6, 5)])
def test_every_plan_of_a_fold_gives_the_same_numbers(sides, kept, ranks):
    model = feed_forward(sides, kept, ranks)
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    folds = fold_model(model)
    assert any(fold.refused is None for fold in folds)
    assert {layer.name: layer.spec.pivot_side for layer in find_factored(model)} == dict(
        zip(("up", "down"), sides, strict=True)
    )
    for plan in every_plan(model, 4096):
        assert_equal_outputs(finish_model(lower_model(model.clone(), plan)), feeds, expected, ATOL)


@pytest.mark.parametrize(
    ("ranks", "pivoting", "lowering"), [((3, 2), "up", "pivots_out"), ((2, 3), "down", "pivots_in")]
)
@pytest.mark.parametrize("kept", [0, 1])
def test_a_fold_puts_the_stored_pivots_in_place(ranks, pivoting, lowering, kept):
    """The combination in the graph is then the stored one, to the last bit, and so are the rows it combines."""
    model = feed_forward(("out", "in"), ([], []), ranks)
    stored = {layer.name: layer for layer in find_factored(model.clone())}[pivoting]
    others = np.delete(np.arange(8), stored.pivots)
    which = others[1 : 1 + kept].tolist()  # a kept feature that is no pivot
    model = feed_forward(("out", "in"), (which, which), ranks)
    before = {layer.name: layer for layer in find_factored(model.clone())}[pivoting]
    fold_model(model)
    layers = {layer.name: layer for layer in find_factored(model)}
    assert layers[pivoting].pivots.tolist() == [kept, kept + 1, kept + 2] and layers[pivoting].spec.order.pivots
    lowered = lowered_to(model, {pivoting: lowering})
    combine = lowered.graph.initializers[f"{pivoting}.combine_t"].const_value.numpy()
    rows = np.delete(before.u if pivoting == "up" else before.v.T, np.searchsorted(others, which), 0)
    np.testing.assert_array_equal(combine, rows.T if pivoting == "up" else rows)
    name, width = ("first_t", slice(kept, kept + 3)) if pivoting == "up" else ("second_t", slice(0, 3))
    joined = lowered.graph.initializers[f"{pivoting}.{name}"].const_value.numpy()
    combined = joined[:, width] if pivoting == "up" else joined[width].T
    np.testing.assert_array_equal(combined, before.v.T if pivoting == "up" else before.u)


def test_pivots_that_are_kept_features_are_chosen_anew():
    layer = make_pivots(8, 6, "out", kept=[])
    kept = [int(layer.pivots[0]), int(layer.pivots[1])]
    model = feed_forward(("out", "in"), (sorted(kept), sorted(kept)), (3, 2))
    (up, *_) = find_factored(model)
    assert set(up.kept.tolist()) & set(up.pivots.tolist())
    fold_model(model)
    (up, *_) = find_factored(model)
    assert up.spec.order.pivots and up.pivots.tolist() != [2, 3, 4]  # which now lie behind the 2 kept ones


@pytest.fixture(scope="module")
def stored() -> tuple[Any, Any]:
    """A BERT whose kept neurons fold away and whose low-rank parts are stored by pivots, and its trace."""
    model = build_model("bert", factored=False, seed=1)
    random_factors_(model, LoSparse(keep=0.5, low_rank=0.2, structure="foldable", multiple=4), seed=1)
    assert store_pivots_(model) == {}
    return model, trace_model(TaskModel(model, TASKS["text-classification"]))


def test_the_trace_keeps_pivots(stored):
    model, trace = stored
    for layer in find_factored(trace):
        module = model.get_submodule(layer.name)
        assert layer.spec.pivot_side == module.pivot_side is not None
        np.testing.assert_array_equal(layer.pivots, module.pivots.numpy())
        np.testing.assert_array_equal(layer.whole_u, module.factors()[0].detach().numpy())


@pytest.mark.parametrize("forms", [(), ("pivots_out", "pivots_in", "sliced", "absorbed")])
def test_a_model_passes_the_gate(stored, export_traced, tmp_path, forms):
    model, trace = stored
    graph = prepare_model(trace.clone())
    folds = fold_model(graph)
    plan = prefer(plan_model(graph, folds=folds), *forms)
    report = export_traced(trace, model, tmp_path / "out", plan=plan if forms else None)
    assert report.parity.max_abs <= report.parity.tolerance
    assert Plan.read(report.folder / "plan.json") == report.plan
    lowerings = [layer.lowering for layer in report.plan.layers.values()]
    assert not forms or lowerings.count("pivots_out") + lowerings.count("pivots_in") == 2
    # What the folder says is stored is what the model stores.
    contents = inspect_folder(report.folder)
    assert sum(layer.parameters for layer in contents.layers) == report.metadata["parameters"]["layers"]
    assert {layer.name: layer.spec.pivot_side for layer in contents.layers} == {
        layer.name: layer.spec.pivot_side for layer in find_factored(trace)
    }
