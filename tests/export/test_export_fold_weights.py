"""What `fold_model` writes: every vector and weight at a list of features in one order, shared ones apart.

Tolerance as in `test_export_fold`: 1e-5 for rounding near 1e-6; a feature in another's place is off by 0.01 and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from losparse.layers.spanning_rows import spanning_rows
from losparse_export.graph.layer import Order
from losparse_export.graph.marks import REORDERED
from losparse_export.graph.naming import place_of
from losparse_export.graph.node import find_factored
from losparse_export.passes import fold_model

from .blocks import Blocks, lowered_to, make_dense
from .builders import make_layer
from .test_export_fold import KEPT, down, fold, orders, up

# 1, 4 and 6 are kept, the others follow as they stood
PLACES = [1, 4, 6, 0, 2, 3, 5, 7]


def stored(model: ir.Model, name: str) -> np.ndarray:
    return np.asarray(model.graph.initializers[name].const_value.numpy())


def test_vectors_and_a_dense_partner_follow():
    """`down` has rank 0, so nothing pivots and the order is known."""
    torch.manual_seed(0)
    b = Blocks()
    dense = make_dense(8, 6)
    y = b.op("Mul", b.layer(b.input(6), dense, "up"), b.constant("scale.weight", np.arange(8.0)))
    y = b.op("Sub", b.constant("shift.weight", np.arange(8.0)[None]), b.op("Mul", y, b.scalar(2.0)))
    columns = make_layer(6, 8, rank=0, kept=KEPT, axis="in")
    model = b.model(b.layer(y, columns, "down"))
    fold(model, whole=[(("up",), ("down",))])  # else what `down` does not keep is left out
    np.testing.assert_array_equal(stored(model, "up.weight_t"), dense.weight.detach().numpy()[PLACES].T)
    np.testing.assert_array_equal(stored(model, "up.bias"), dense.bias.detach().numpy()[PLACES])
    assert stored(model, "scale.weight").tolist() == PLACES and stored(model, "shift.weight").tolist() == [PLACES]
    assert stored(model, "down.kept").tolist() == [0, 1, 2]
    np.testing.assert_array_equal(stored(model, "down.sparse"), columns.sparse.detach().numpy())


def test_factors_and_kept_rows_follow():
    torch.manual_seed(0)
    b = Blocks()
    rows = make_layer(8, 6, rank=8 - 3 + 1, kept=KEPT)  # more pivots than there is room for
    y = b.layer(b.op("Relu", b.layer(b.input(6), rows, "up")), make_dense(6, 8, bias=False), "down")
    model = b.model(y)
    fold(model)
    np.testing.assert_array_equal(stored(model, "up.u"), rows.u.detach().numpy()[PLACES])
    np.testing.assert_array_equal(stored(model, "up.v"), rows.v.detach().numpy())
    np.testing.assert_array_equal(stored(model, "up.sparse"), rows.sparse.detach().numpy())
    np.testing.assert_array_equal(stored(model, "up.bias"), rows.bias.detach().numpy()[PLACES])
    assert stored(model, "up.kept").tolist() == [0, 1, 2]


def test_heads_are_ordered_each_for_itself():
    """Two heads of 4; head 0 keeps 1 and 3, head 1 keeps 4 + 0 and 4 + 2."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(6, axes=3)
    value = make_layer(8, 6, rank=2, kept=[1, 3, 4, 6])
    parts = [b.layer(x, make_dense(8, 6), name) for name in ("query", "key")]
    y = b.attention(*parts, b.layer(x, value, "value"), 2)
    model = b.model(b.layer(y, make_dense(6, 8), "output"))
    fold(model)
    places = [1, 3, 0, 2, 4, 6, 5, 7]
    np.testing.assert_array_equal(stored(model, "value.u"), value.u.detach().numpy()[places])
    assert stored(model, "value.kept").tolist() == [0, 1, 4, 5]
    assert orders(model) == {"value": Order("out", 2)}


def test_nodes_between_say_that_their_features_are_reordered():
    b = Blocks()
    y = b.op("Relu", up(b, b.input(6)), scope="act")
    model = b.model(b.layer(y, make_dense(6, 8), "down"))
    fold_model(model)
    places = {node.op_type: place_of(node) for node in model.graph}
    assert places["Relu"] == f"act.{REORDERED}" and places["Add"] == "down"


def test_a_layer_called_twice_between_the_same_layers():
    """x -> up -> Gelu, times up again: one list of features, written twice by the same weights."""
    torch.manual_seed(0)
    b = Blocks()
    first = up(b, b.input(6))
    second = b.call_again(b.input(6, name="z"), first)
    model = b.model(down(b, b.op("Mul", b.op("Gelu", first), second)))
    folds = fold(model)
    assert folds[0].writers == ("up", "up") and folds[0].refused is None


def test_a_layer_called_twice_between_different_layers():
    """Each call gets an order of its own, so its weights are stored twice."""
    torch.manual_seed(0)
    b = Blocks()
    first = up(b, b.input(6))
    second = b.call_again(b.input(6, name="z"), first)
    one = down(b, b.op("Gelu", first), "one", [0, 1])
    model = b.model(b.op("Add", one, down(b, b.op("Gelu", second), "two", [4, 6, 7])))
    folds = fold(model)
    assert [fold.readers for fold in folds if fold.refused is None] == [("one",), ("two",)]
    calls = [layer for layer in find_factored(model) if layer.name == "up"]
    assert len(calls) == 2 and not np.array_equal(calls[0].u, calls[1].u)


@pytest.mark.parametrize("foldable_first", [True, False])
def test_a_layer_called_twice_of_which_one_call_cannot_be_folded(foldable_first):
    """A plan has one form for both calls: it must be one that both can take."""
    torch.manual_seed(0)
    b = Blocks()
    x, z = b.input(6), b.input(6, name="z")
    first = up(b, x)
    second = b.call_again(z, first)
    folded, kept = (first, second) if foldable_first else (second, first)
    fold(b.model(down(b, b.op("Gelu", folded)), b.op("Softmax", kept, axis=-1)))


def test_a_weight_that_is_read_elsewhere_too_stays_as_it_is():
    """A dense partner whose matrix is tied: the product outside the fold reads the old one."""
    torch.manual_seed(0)
    b = Blocks()
    y = b.layer(b.input(6), make_dense(8, 6, bias=False), "up")
    tied = b.weights[-1]
    outside = b.op("MatMul", b.input(6, name="z"), tied, width=8, scope="head")
    model = b.model(down(b, b.op("Relu", y)), outside)
    fold(model)
    assert {"up.weight_t", "up.weight_t_2"} <= set(model.graph.initializers)


def test_a_vector_that_is_read_twice_is_ordered_twice():
    torch.manual_seed(0)
    b = Blocks()
    vector = b.constant("scale.weight", np.arange(8.0))
    y = b.op("Mul", b.op("Tanh", b.op("Mul", up(b, b.input(6)), vector)), vector)
    fold(b.model(down(b, y)))


def test_two_layers_in_a_row():
    """a -> b -> c: the second one is put in order at both sides, and noted for the last."""
    torch.manual_seed(0)
    b = Blocks()
    y = b.op("Relu", up(b, b.input(6), "a"))
    y = b.op("Relu", b.layer(y, make_layer(8, 8, rank=2, kept=KEPT, axis="in"), "b"))
    model = b.model(down(b, y, "c", [0, 3]))
    folds = fold(model)
    made = [(fold.writers, fold.readers) for fold in folds if fold.refused is None]
    assert made == [(("a",), ("b",)), (("b",), ("c",))]


@pytest.mark.parametrize("axis", ["in", "out"])
def test_the_second_of_two_layers_in_a_row_says_that_its_outputs_are_reordered(axis):
    """Whichever side its kept groups are at: who compares outputs by name must know."""
    torch.manual_seed(0)
    b = Blocks()
    y = b.op("Relu", up(b, b.input(6), "a"))
    y = b.op("Relu", b.layer(y, make_layer(8, 8, rank=2, kept=KEPT, axis=axis), "b"))
    model = b.model(down(b, y, "c", [0, 3]))
    fold_model(model)
    lowered = lowered_to(model, dict.fromkeys("abc", "dense"))
    assert {place_of(node) for node in lowered.graph} >= {f"a.{REORDERED}", f"b.{REORDERED}", "c"}


def test_a_layer_that_reads_and_writes_the_same_features():
    """A residual stream without normalisation: y = h + b(h), all of one list of features."""
    torch.manual_seed(0)
    b = Blocks()
    h = up(b, b.input(6), "a", [0, 3, 6])
    y = b.op("Add", h, b.layer(h, make_layer(8, 8, rank=2, kept=[2, 3, 5]), "b"))
    fold(b.model(down(b, y, "c", [0, 3])))


def test_key_and_value_of_one_layer():
    """Its dimensions belong to two lists, of the scores and of the output: an order must suit both."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(6, axes=3)
    both = up(b, x, "both", [1, 3, 5, 7])
    fold(b.model(down(b, b.attention(up(b, x, "query", [1, 3, 5, 7]), both, both, 2), "output", [1, 3, 5, 7])))


def combination(factor: np.ndarray, pivots: np.ndarray) -> Any:
    """Return C with factor = C factor[pivots], as the pivot forms solve for it."""
    wide = factor.astype(np.float64)
    return np.linalg.solve(wide[pivots].T, wide.T).T


def random_factor(rows: int, rank: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, rank)).astype(np.float32)


def noisy_factor(rows: int, rank: int, seed: int) -> np.ndarray:
    """Half the columns repeat the others but for noise of 1e-5, far above fp32's 6e-8."""
    base = random_factor(rows, rank, seed)
    base[:, rank // 2 : 2 * (rank // 2)] = base[:, : rank // 2]
    return base + 1e-5 * random_factor(rows, rank, seed + 1)


def graded_factor(rows: int, rank: int, seed: int) -> np.ndarray:
    """Columns of lengths from 1 to 1e-4, as a balanced SVD of falling singular values gives them."""
    return random_factor(rows, rank, seed) * np.logspace(0, -4, rank, dtype=np.float32)


@pytest.mark.parametrize("make", [random_factor, noisy_factor, graded_factor])
@pytest.mark.parametrize(("rows", "rank"), [(5, 1), (8, 8), (40, 6), (300, 30)])
def test_pivots_combine_to_all_rows(make, rows, rank):
    """Entries below 10: what one pivot's rounding of 1e-7 becomes in another row is then 1e-6 at most."""
    for seed in range(5):
        factor = make(rows, rank, seed)
        pivots = spanning_rows(factor)[0]
        assert len(set(pivots.tolist())) == rank and (np.diff(pivots) > 0).all()
        combine = combination(factor, pivots)
        assert np.abs(combine).max() < 10
        # double precision, and a conditioning of 1e5 at most
        np.testing.assert_allclose(combine @ factor[pivots], factor, rtol=0, atol=1e-9)


@pytest.mark.parametrize("change", ["a column twice", "a column of zeros", "all zeros"])
@pytest.mark.parametrize("lowering", ["pivots_out", "pivots_in"])
def test_pivots_of_a_factor_without_full_rank(change, lowering):
    """Nothing says that a layer uses all of its rank: a pruned or padded one does not."""
    torch.manual_seed(0)
    layers = {"up": make_layer(8, 6, rank=3, kept=0), "down": make_layer(6, 8, rank=3, kept=0)}
    layer = layers["up" if lowering == "pivots_out" else "down"]
    with torch.no_grad():
        factor = layer.u if lowering == "pivots_out" else layer.v.T
        factor[:, 2] = factor[:, 1] if change == "a column twice" else 0.0
        if change == "all zeros":
            factor[:] = 0.0
    b = Blocks()
    if lowering == "pivots_out":
        y = b.op("Relu", b.layer(b.input(6), layers["up"], "up"))
        fold(b.model(b.layer(y, make_dense(6, 8), "down")))
    else:
        y = b.op("Relu", b.layer(b.input(6), make_dense(8, 6), "up"))
        fold(b.model(b.layer(y, layers["down"], "down")))
