"""Features that nobody needs, and heads that keep nothing, are left out: which, and the same numbers.

Tolerance 1e-5, scaled with outputs above 1: a few layers of weights of magnitude 0.3 and sums of at most 8 terms, whose
rounding is near 1e-6. A constant that got lost on its way into a bias is off by 0.01 and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from losparse_export import Call, lower_model, plan_model
from losparse_export.passes import Fold, fold_model

from .blocks import (
    Blocks,
    assert_equal_outputs,
    attention_block,
    dense_outputs,
    every_plan,
    feed_forward,
    feeds_for,
    finish_model,
    make_dense,
    prefer,
    shapes_of,
)
from .builders import make_layer

ATOL = 1e-5


def narrowed(model: ir.Model, *, every: bool = False, **options: Any) -> tuple[tuple[Fold, ...], ir.Model]:
    """Fold and finish for many tokens, or by every plan, and compare with the layers; returns folds and the graph."""
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    folds = fold_model(model, **options)
    plans = every_plan(model, 4096) if every else [plan_model(model, calls=Call(length=4096))]
    for plan in reversed(plans):
        finished = finish_model(lower_model(model.clone(), plan))
        assert_equal_outputs(finished, feeds, expected, ATOL)
    return folds, finished


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def words(model: ir.Model, *names: str) -> list[str]:
    return [shapes_of(model)[name].words for name in names]


@pytest.mark.parametrize(
    ("up", "down", "ranks", "left"),
    [
        ([1, 4, 6], [1, 4, 6], (0, 0), 3),
        ([1, 4, 6], [1, 4, 5], (0, 0), 2),  # 6 is written and not read, 5 is read and constant
        ([1, 4, 6], [0, 2], (0, 2), 3),  # all are read, three are not constant
        ([1, 4, 6], [0, 2], (2, 0), 2),  # all are computed, two are read
    ],
)
def test_neurons_that_are_constant_or_unread_go(up, down, ranks, left):
    model = feed_forward(up, down, ranks=ranks)
    folds, _ = narrowed(model, every=True)
    assert folds[0] == Fold(("up",), ("down",), 1, None, dropped=8 - left)
    sizes = shapes_of(model)
    assert (sizes["up"].out_features, sizes["down"].in_features) == (left, left)
    assert sizes["up"].in_model.words == f"8x6, rank {ranks[0]}, kept {len(up)}, axis 'out'"


def test_a_narrow_feed_forward_part_is_two_plain_products():
    _, finished = narrowed(feed_forward([1, 4, 6], [1, 4, 6], ranks=(0, 0)))
    assert kinds(finished) == ["Gemm", "Gelu", "Gemm"]


def test_a_feed_forward_part_that_keeps_nothing_is_a_bias():
    torch.manual_seed(0)
    b = Blocks()
    x = b.norm(b.input(6), "norm")
    up, down = make_layer(8, 6, rank=0, kept=[]), make_layer(6, 8, rank=0, kept=[1, 2], axis="in")
    y = b.layer(b.op("Gelu", b.layer(x, up, "up")), down, "down")
    model = b.model(b.norm(b.op("Add", y, x), "norm_after"))
    folds, _ = narrowed(model, every=True)
    assert [fold.dropped for fold in folds if fold.writers == ("up",)] == [8]
    finished = finish_model(lower_model(model, prefer(plan_model(model), "constant")))
    assert kinds(finished) == ["LayerNormalization", "Add", "LayerNormalization"]


def test_heads_that_keep_nothing_go():
    model = attention_block([0, 1], [0, 1], [2, 3], [2, 3], rank=0)  # two heads of width 4
    folds, finished = narrowed(model, every=True)
    assert folds[0] == Fold(("query", "key"), (), 2, None, dropped=6, dropped_blocks=1)
    assert folds[1] == Fold(("value",), ("output",), 2, None, dropped=6, dropped_blocks=1)
    attention = next(node for node in finished.graph if node.op_type == "Attention")
    assert [attention.attributes[name].as_int() for name in ("q_num_heads", "kv_num_heads")] == [1, 1]
    assert attention.attributes["scale"].as_float() == 4**-0.5
    assert not {"Concat", "Slice", "Expand", "Gather", "Reshape"} & set(kinds(finished))


def test_values_may_be_wider_than_keys():
    model = attention_block([0, 6], [0, 6], [1, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5, 7], rank=0)
    folds, finished = narrowed(model)
    assert [(fold.dropped, fold.dropped_blocks) for fold in folds[:2]] == [(6, 0), (2, 0)]
    assert words(model, "query", "output") == ["2x6, rank 0, kept 2, axis 'out'", "6x6, rank 0, kept 6, axis 'in'"]
    assert not {"Concat", "Slice", "Expand", "Gather", "Reshape"} & set(kinds(finished))


def test_heads_of_unequal_counts_are_as_wide_as_the_widest():
    model = attention_block([0, 1, 6], [0, 1, 6], [2, 3, 4], [2, 3, 4], rank=0)
    folds, _ = narrowed(model, every=True)
    assert [fold.dropped for fold in folds[:2]] == [4, 4]
    assert words(model, "query", "value") == ["4x6, rank 0, kept 3, axis 'out'"] * 2


@pytest.mark.parametrize("scores", [[0, 1, 6], []])
def test_attention_of_which_all_heads_go_is_a_bias(scores):
    model = attention_block(scores, scores, [], [2, 3], rank=0)
    folds, finished = narrowed(model, every=True)
    assert [(fold.dropped, fold.dropped_blocks) for fold in folds[:2]] == [(8, 2), (8, 2)]
    assert "Attention" not in kinds(finished)


def test_scores_that_are_all_constant_leave_a_head_its_values():
    folds, _ = narrowed(attention_block([], [], [1, 4], [2, 4], rank=0))
    assert [(fold.dropped, fold.dropped_blocks) for fold in folds[:2]] == [(7, 1), (7, 1)]


def test_a_constant_query_counts_where_its_key_is_not_constant():
    folds, _ = narrowed(attention_block([0], [0, 1], [0, 4], [0, 4], rank=0))
    assert folds[0].dropped == 4  # 1 of a head's key meets a constant query, 2 and 3 nothing


def test_a_soft_cap_sees_constant_keys():
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(6, axes=3)
    parts = [b.layer(x, make_layer(8, 6, rank=0, kept=kept), n) for n, kept in (("query", [0, 4]), ("key", [0, 4]))]
    value = b.layer(x, make_layer(8, 6, rank=0, kept=[1, 5]), "value")
    model = b.model(b.layer(b.attention(*parts, value, 2, softcap=2.0), make_layer(6, 8, rank=0, kept=[1, 5]), "out"))
    folds, _ = narrowed(model)
    assert folds[0].dropped == 0


def test_a_mask_of_every_head_loses_those_that_go():
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(6, axes=3)
    parts = [b.layer(x, make_layer(12, 6, rank=0, kept=[4, 8]), name) for name in ("query", "key", "value")]
    mask = b.constant("bias", np.random.default_rng(0).normal(size=(1, 3, 5, 5)))
    mask.shape = ir.Shape([1, 3, 5, 5])
    query, key, value = parts
    y = b.op("Attention", query, key, value, mask, width=12, q_num_heads=3, kv_num_heads=3)
    y.shape = ir.Shape([*x.shape.dims[:-1], 12])
    model = b.model(b.layer(y, make_layer(6, 12, rank=0, kept=[4, 8], axis="in"), "output"))
    folds, finished = narrowed(model)
    assert [fold.dropped_blocks for fold in folds[:2]] == [1, 1] and "Gather" in kinds(finished)


def test_dense_partners_are_narrowed_too():
    torch.manual_seed(0)
    b = Blocks()
    y = b.op("Relu", b.layer(b.input(6), make_layer(8, 6, rank=0, kept=[1, 4]), "up"))
    model = b.model(b.layer(y, make_dense(6, 8), "down"))
    folds, finished = narrowed(model)
    assert folds[0].dropped == 6 and [node.op_type for node in finished.graph] == ["Gemm", "Relu", "Gemm"]


def test_features_stay_where_the_caller_says_so():
    model = attention_block([0, 1], [0, 1], [2, 3], [2, 3], rank=0)
    folds, _ = narrowed(model, whole=[(("value",), ("output",))])
    # A head goes from queries, keys and values, or not at all.
    assert [(fold.dropped, fold.dropped_blocks) for fold in folds[:2]] == [(4, 0), (0, 0)]


def test_a_layer_that_is_called_twice_loses_what_no_call_needs():
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(6)
    first = b.layer(x, make_layer(8, 6, rank=0, kept=[1, 4]), "up")
    again = b.call_again(b.op("Relu", x), first)
    outputs = [
        b.layer(b.op("Relu", value), make_layer(5, 8, rank=0, kept=kept, axis="in"), name)
        for value, kept, name in ((first, [1, 4], "a"), (again, [1], "b"))
    ]
    folds, _ = narrowed(b.model(*outputs))
    assert [fold.dropped for fold in folds if fold.writers == ("up",)] == [0, 0]


@pytest.mark.parametrize("kept", [[0, 1], []])
def test_grouped_heads_stay_as_they_are(kept):
    """Two key heads of width 4 for four query heads; the second one keeps nothing."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(6, axes=3)
    query = b.layer(x, make_layer(16, 6, rank=0, kept=[0, 1, 4, 5]), "query")
    key, value = (b.layer(x, make_layer(8, 6, rank=0, kept=kept), name) for name in ("key", "value"))
    y = b.attention(query, key, value, 4, kv_heads=2)
    model = b.model(b.layer(y, make_layer(6, 16, rank=0, kept=[0, 1, 4, 5], axis="in"), "output"))
    folds, _ = narrowed(model, every=True)
    assert not any(fold.dropped for fold in folds)
