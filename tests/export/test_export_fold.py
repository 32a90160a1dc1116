"""`fold_model`: where features are put in order and where they stay, how they lie then, and the same numbers.

Tolerance 1e-5, scaled with outputs above 1: a few layers of weights of magnitude 0.3 and sums of at most 8 terms, whose
rounding is near 1e-6. A feature in another's place is off by 0.01 and more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from losparse_export import lower_model
from losparse_export.graph.layer import Order
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
    shapes_of,
)
from .builders import make_layer

ATOL = 1e-5
KEPT = [1, 4, 6]


def fold(model: ir.Model, **options: Any) -> tuple[Fold, ...]:
    """Fold in place, and compare every plan of the result with the layers."""
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    folds = fold_model(model, **options)
    for plan in every_plan(model, 4096):
        assert_equal_outputs(finish_model(lower_model(model.clone(), plan)), feeds, expected, ATOL)
    return folds


def orders(model: ir.Model) -> dict[str, Order | None]:
    return {name: shape.order for name, shape in shapes_of(model).items()}


def up(b: Blocks, x: ir.Value, name: str = "up", kept: Any = (1, 4, 6)) -> ir.Value:
    return b.layer(x, make_layer(8, 6, rank=2, kept=kept), name)


def down(b: Blocks, x: ir.Value, name: str = "down", kept: Any = (1, 4, 6)) -> ir.Value:
    return b.layer(x, make_layer(6, 8, rank=2, kept=kept, axis="in"), name)


def gated(b: Blocks, kept: tuple[Any, Any, Any] = (KEPT, KEPT, KEPT)) -> ir.Model:
    x = b.input(6)
    gate = b.op("Gelu", up(b, x, "gate", kept[0]))
    return b.model(down(b, b.op("Mul", gate, up(b, x, kept=kept[1])), kept=kept[2]))


def dense_up(b: Blocks) -> ir.Model:
    return b.model(down(b, b.op("Relu", b.layer(b.input(6), make_dense(8, 6), "up"))))


def dense_down(b: Blocks) -> ir.Model:
    return b.model(b.layer(b.op("Relu", up(b, b.input(6))), make_dense(6, 8), "down"))


def two_readers(b: Blocks) -> ir.Model:
    y = b.op("Tanh", up(b, b.input(6)))
    return b.model(down(b, y), b.layer(y, make_dense(3, 8), "other"))


def grouped_heads_of_one(b: Blocks) -> ir.Model:
    """Four heads of width 1: nothing to order inside a head, but kept ones lie where they lie."""
    x = b.input(6, axes=3)
    value = up(b, x, "value", [0, 1])
    parts = (b.layer(x, make_dense(8, 6), name) for name in ("query", "key"))
    return b.model(down(b, b.attention(*parts, value, 8), "output", [0, 1]))


FIRES: list[tuple[Callable[[Blocks], ir.Model], list[Fold]]] = [
    (gated, [Fold(("gate", "up"), ("down",), 1, None)]),
    (dense_up, [Fold(("up",), ("down",), 1, None)]),
    (dense_down, [Fold(("up",), ("down",), 1, None)]),
    (two_readers, [Fold(("up",), ("down", "other"), 1, None)]),
    (grouped_heads_of_one, [Fold(("value",), ("output",), 8, None)]),
]


@pytest.mark.parametrize(("build", "expected"), FIRES)
def test_fires(build, expected):
    torch.manual_seed(0)
    folds = fold(build(Blocks()))
    assert [_sorted(fold) for fold in folds if fold.refused is None] == expected
    assert {fold.refused for fold in folds if fold.refused is not None} <= {"it is an output of the model"}


def _sorted(fold: Fold) -> Fold:
    """Writers that meet in one node are listed as they are met."""
    return Fold(tuple(sorted(fold.writers)), tuple(sorted(fold.readers)), fold.blocks, fold.refused)


def test_attention_gives_two_folds():
    folds = fold(attention_block([1, 3], [1, 3], [0, 5], [0, 5]))
    assert folds[:2] == (Fold(("query", "key"), (), 2, None), Fold(("value",), ("output",), 2, None))
    assert folds[2:] == (Fold(("output",), (), 1, "it is an output of the model"),)


def is_output(b: Blocks) -> ir.Model:
    y = up(b, b.input(6))
    return b.model(down(b, b.op("Relu", y)), y)


def residual(b: Blocks) -> ir.Model:
    x = b.norm(b.input(6), "norm0")
    y = b.layer(b.op("Softmax", x, axis=-1), make_layer(6, 6, rank=2, kept=2), "up")
    return b.model(b.norm(b.op("Add", y, x), "norm1"))


def normed(b: Blocks) -> ir.Model:
    return b.model(down(b, b.norm(b.op("Relu", up(b, b.input(6))), "norm")))


def more_query_heads(b: Blocks) -> ir.Model:
    x = b.input(6, axes=3)
    key, value = (b.layer(x, make_layer(4, 6, rank=2, kept=2), name) for name in ("key", "value"))
    return b.model(down(b, b.attention(up(b, x, "up"), key, value, 4, 2)))


def softmax(b: Blocks) -> ir.Model:
    return b.model(down(b, b.op("Softmax", up(b, b.input(6)), axis=-1)))


def rotary(b: Blocks) -> ir.Model:
    """Halves swapped and mixed with a table of angles, as rotary positions do."""
    x = b.input(6, axes=3)
    q, ends = up(b, x), [b.constant(f"val_{i}", np.array([i])) for i in (0, 4, 8, -1)]
    first = b.op("Slice", q, ends[0], ends[1], ends[3], width=4)
    second = b.op("Slice", q, ends[1], ends[2], ends[3], width=4)
    swapped = b.op("Concat", b.op("Neg", second), first, width=8, axis=-1)
    q = b.op("Add", q, b.op("Mul", swapped, b.constant("angles.weight", np.arange(8.0))))
    key, value = (b.layer(x, make_dense(8, 6), name) for name in ("key", "value"))
    return b.model(down(b, b.attention(q, key, value, 2)))


def dynamic_product(b: Blocks) -> ir.Model:
    return b.model(b.op("MatMul", b.input(5, name="mix"), up(b, b.input(6))))


def other_input(b: Blocks) -> ir.Model:
    return b.model(down(b, b.op("Add", up(b, b.input(6)), b.input(8, name="z"))))


def number_per_token(b: Blocks) -> ir.Model:
    return b.model(down(b, b.op("Mul", up(b, b.input(6)), b.input(1, name="z"))))


def heads_split(b: Blocks) -> ir.Model:
    y = b.op("Reshape", up(b, b.input(6)), b.constant("val_0", np.array([-1, 4])), width=4)
    return b.model(b.op("Reshape", b.op("Relu", y), b.constant("val_1", np.array([-1, 8])), width=8))


def other_domain(b: Blocks) -> ir.Model:
    y = up(b, b.input(6))
    return b.model(down(b, b.op("Clip", y)))


REFUSES = [
    (is_output, "it is an output of the model"),
    (residual, "it is written by LayerNormalization"),
    (normed, "it is read by LayerNormalization"),
    (more_query_heads, "it is read by Attention"),
    (softmax, "it is read by Softmax"),
    (rotary, "it is read by Slice"),
    (dynamic_product, "it is read by MatMul"),
    (other_input, "it is an input of the model or a constant"),
    (number_per_token, "it is read by Mul"),
    (heads_split, "it is read by Reshape"),
    (other_domain, "it is read by Clip"),
]


@pytest.mark.parametrize(("build", "reason"), REFUSES)
def test_refuses(build, reason):
    torch.manual_seed(0)
    model = build(Blocks())
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    folds = fold(model)
    assert {fold.refused for fold in folds if "up" in fold.writers} == {reason}
    assert orders(model)["up"] is None
    after = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("up."))


def test_skip():
    model = feed_forward(KEPT, KEPT)
    folds = fold(model, skip=((("up",), ("down",)), (("nothing",), ())))
    assert folds[0] == Fold(("up",), ("down",), 1, "the plan says so")
    assert set(orders(model).values()) == {None}


def test_skip_names_writers_and_readers():
    """The same layers may meet at other features too, the other way round: those are not meant."""
    assert fold(feed_forward(KEPT, KEPT), skip=((("down",), ("up",)),))[0].refused is None


def test_a_dense_model_has_no_folds():
    b = Blocks()
    y = b.op("Relu", b.layer(b.input(6), make_dense(8, 6), "a"))
    assert fold_model(b.model(b.layer(y, make_dense(2, 8), "b"))) == ()


FREE = Order("out", 1)
ORDERS: list[tuple[Any, Any, tuple[int, int], Order, Order]] = [
    # up keeps, down keeps, their ranks, and how up's rows and down's columns lie
    (KEPT, KEPT, (2, 2), Order("out", 1, 0, True, True), Order("in", 1, 0, False, True)),
    (KEPT, KEPT, (2, 3), Order("out", 1, 0, False, True), Order("in", 1, 0, True, True)),
    # first 6, of up alone, then 1 and 4 of both
    (KEPT, [1, 4], (2, 2), FREE, Order("in", 1, 1)),
    # first 1, of up alone, then 4 of both, then 0 and 6 of down alone
    ([1, 4], [0, 4, 6], (2, 2), FREE, Order("in", 1, 1)),
    ([1, 4], [0, 6], (2, 2), FREE, Order("in", 1, 2)),
    # one layer keeps none: no two parts; its pivots could not stand behind the other's kept neurons
    (0, KEPT, (2, 2), Order("out", 1), Order("in", 1, 0, True)),
    (KEPT, 0, (2, 2), Order("out", 1, 0, True), Order("in", 1)),
    (0, 0, (2, 2), Order("out", 1, 0, True), Order("in", 1)),
    # 7 kept, and behind them no room for 2 pivots
    (list(range(7)), list(range(7)), (2, 2), Order("out", 1, 0, False, True), Order("in", 1, 0, False, True)),
    # neither has a low-rank part to span
    (KEPT, KEPT, (0, 0), Order("out", 1, 0, False, True), Order("in", 1, 0, False, True)),
]


@pytest.mark.parametrize(("up_kept", "down_kept", "ranks", "up_order", "down_order"), ORDERS)
def test_order_of_one_block(up_kept, down_kept, ranks, up_order, down_order):
    model = feed_forward(up_kept, down_kept, ranks=ranks)
    fold(model)
    assert orders(model) == {"up": up_order, "down": down_order}


HEADS = [
    # two heads of 4: query keeps, key keeps, and how they lie
    ([1, 3, 5, 7], [1, 3, 5, 7], Order("out", 2), Order("out", 2)),
    ([0, 1, 6, 7], [0, 1, 6, 7], Order("out", 2), Order("out", 2)),  # other dimensions, equally many
    # in both heads: one of the query alone, one of both, one of the key alone
    ([1, 3, 5, 7], [0, 3, 4, 7], Order("out", 2), Order("out", 2, 1)),
    ([1, 3, 5], [1, 3, 5, 7], Order("out", 0), Order("out", 2)),
    ([1, 3, 5], [1, 3, 5], Order("out", 0), Order("out", 0)),
    # head 0 has one of both and one of the key alone, head 1 two of the key alone behind one of the query alone
    ([1, 5], [1, 3, 6, 7], Order("out", 2), Order("out", 0)),
    (0, [1, 3, 5, 7], Order("out", 2), Order("out", 2)),
]


@pytest.mark.parametrize(("query", "key", "query_order", "key_order"), HEADS)
def test_order_of_heads(query, key, query_order, key_order):
    model = attention_block(query, key, 0, 0)
    fold(model)
    found = orders(model)
    assert (found["query"], found["key"]) == (query_order, key_order)


def test_a_third_set_lies_anywhere():
    torch.manual_seed(0)
    model = gated(Blocks(), ([0, 4], [0, 1], [2, 6]))
    fold(model)
    # 4 of the gate alone, 0 of both, 1 of up alone, then the rest in order: 2, 3, 5, 6, 7
    assert orders(model) == {"gate": FREE, "up": Order("out", 1, 1), "down": Order("in", 0)}


def test_groups_of_the_other_side_lie_anywhere():
    torch.manual_seed(0)
    b = Blocks()
    y = b.op("Relu", b.layer(b.input(6), make_layer(8, 6, rank=2, kept=[0, 3], axis="in"), "up"))
    model = b.model(down(b, y))
    fold(model)
    assert orders(model) == {"up": Order("out", 0), "down": Order("in", 1, 0, True)}
