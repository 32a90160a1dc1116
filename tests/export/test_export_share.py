"""Products of one input that become one product: when that pays, what is stacked, and the same numbers.

Tolerance 1e-6, scaled with outputs above 1: the same sums of at most 64 products, in an order that may differ with the
width of the product.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from losparse_export import Call
from losparse_export.costs import Traffic
from losparse_export.passes import SharePass, WantPrecisionPass, fold_model
from losparse_export.target import CPU, prepare_model

from .blocks import Blocks, assert_equal_outputs, dense_outputs, feeds_for, finish_model, lowered_to, make_dense
from .builders import make_layer, run_graph

ATOL = 1e-6


def products(widths: tuple[int, ...], features: int = 64, *, biases: tuple[bool, ...] = ()) -> ir.Model:
    """x (tokens, features) -> one dense layer and one Neg a width."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(features)
    layers = [
        make_dense(width, features, bias=place < len(biases) and biases[place]) for place, width in enumerate(widths)
    ]
    return b.model(*(b.op("Neg", b.layer(x, layer, f"layer.{place}")) for place, layer in enumerate(layers)))


def shared(model: ir.Model, tokens: int) -> bool:
    """Run the pass, compare before and after, and say whether products were stacked."""
    feeds = feeds_for(model)
    before = run_graph(model, feeds)
    result = SharePass(CPU.costs, Traffic.of(Call(length=tokens)))(model)
    common.RemoveUnusedNodesPass()(model)
    assert_equal_outputs(model, feeds, before, ATOL)
    return result.modified


# Three products of 64 save two starts and cost one, and 3 * 64 copied floats a token.
WORTH = CPU.costs.node / (CPU.costs.element * 3 * 64)


@pytest.mark.parametrize(
    ("widths", "tokens", "expected"),
    [
        ((64, 64, 64), int(WORTH), True),
        ((64, 64, 64), int(WORTH) + 1, False),
        ((64, 64, 64), 4096, False),
        ((64, 64), 1, False),  # one start saved, one spent
        # 24 columns short of a panel of 32 each, over 64 features: 2 * 24 * 64 > 16 * 16 copied floats
        ((8, 8), 4096, True),
        ((8, 64), 4096, True),  # 24 * 64 > 16 * 72
        ((24, 64), 4096, False),  # 8 * 64 < 16 * 88
        ((64,), 1, False),
    ],
)
def test_pays(widths, tokens, expected):
    model = products(widths)
    assert shared(model, tokens) is expected
    kinds = [node.op_type for node in model.graph if node.op_type != "Neg"]
    assert kinds == (["MatMul", "Split"] if expected else ["MatMul"] * len(widths))


def test_products_that_are_quantised_each_quantise_their_input():
    """17 units a feature saved, by 64 features: more than the 16 * 64 copied floats of two products of 32."""
    assert not shared(products((32, 32)), 4096)
    model = products((32, 32))
    WantPrecisionPass("int8", {})(model)
    assert shared(model, 4096)


def test_biases_are_stacked_with_zeros_for_those_without():
    model = products((8, 4, 8), biases=(True, False, True))
    first, last = (model.graph.initializers[f"layer.{place}.bias"].const_value.numpy() for place in (0, 2))
    weights = [model.graph.initializers[f"layer.{place}.weight_t"].const_value.numpy() for place in range(3)]
    assert shared(model, 4)
    assert [node.op_type for node in model.graph] == ["MatMul", "Add", "Split", "Neg", "Neg", "Neg"]
    product, adder, split = tuple(model.graph)[:3]
    np.testing.assert_array_equal(product.inputs[1].const_value.numpy(), np.concatenate(weights, axis=1))
    np.testing.assert_array_equal(adder.inputs[1].const_value.numpy(), [*first, *np.zeros(4), *last])
    assert split.inputs[1].const_value.numpy().tolist() == [8, 4, 8]
    assert [output.shape[-1] for output in split.outputs] == [8, 4, 8] and product.outputs[0].shape[-1] == 20


def test_without_biases_nothing_is_added():
    model = products((8, 8))
    assert shared(model, 4) and "Add" not in [node.op_type for node in model.graph]


def test_a_product_that_is_read_beside_its_bias():
    """Its own output is needed too, so the bias stays behind it."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(64)
    y = b.layer(x, make_dense(8, 64), "a")
    product = y.producer().inputs[0]
    model = b.model(b.op("Neg", y), b.op("Relu", product), b.op("Neg", b.layer(x, make_dense(8, 64), "b")))
    assert shared(model, 4)
    assert sorted(node.op_type for node in model.graph) == ["Add", "Add", "MatMul", "Neg", "Neg", "Relu", "Split"]


def two_inputs(b: Blocks) -> ir.Model:
    return b.model(*(b.op("Neg", b.layer(b.input(64, name=name), make_dense(8, 64), name)) for name in "ab"))


def one_product_of_two_tensors(b: Blocks) -> ir.Model:
    x = b.input(5)
    return b.model(b.op("MatMul", x, b.input(3, name="z"), width=3), b.layer(x, make_dense(8, 5), "a"))


def a_batch_of_matrices(b: Blocks) -> ir.Model:
    x = b.input(5, axes=3)
    weight = b.constant("a.weight", np.ones((2, 5, 3)))
    return b.model(b.op("MatMul", x, weight, width=3), b.layer(x, make_dense(8, 5), "b"))


@pytest.mark.parametrize("build", [two_inputs, one_product_of_two_tensors, a_batch_of_matrices])
def test_refuses(build):
    torch.manual_seed(0)
    assert not shared(build(Blocks()), 1)


def test_outputs_of_the_model_keep_their_names():
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(64)
    model = b.model(b.layer(x, make_dense(8, 64), "a"), b.layer(x, make_dense(8, 64, bias=False), "b"))
    assert shared(model, 4)
    assert [value.name for value in model.graph.outputs] == ["y0", "y1"]


@pytest.mark.parametrize(
    ("width", "kept"),
    [
        (8, [1, 3, 5, 7]),  # 2 kept dimensions and the rank are all of a head: attention stays as it is
        (16, [1, 3, 9, 11]),  # heads of 8 are narrowed to 2 and 2
    ],
)
def test_query_key_and_value_of_a_factored_layer(width, kept):
    """Each is two thin products: six of one input become one, and nothing is computed that nobody reads."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.tokens(16)
    parts = [b.layer(x, make_layer(width, 16, rank=2, kept=kept), name) for name in ("query", "key", "value")]
    output = make_layer(16, width, rank=2, kept=kept, axis="in")
    model = b.model(b.layer(b.attention(*parts, 2), output, "output"))
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    fold_model(prepare_model(model))
    finished = finish_model(lowered_to(model, dict.fromkeys(("query", "key", "value"), "folded")), Call(length=4096))
    splits = [node for node in finished.graph if node.op_type == "Split"]
    assert len(splits[0].outputs) == 6
    assert all(list(output.uses()) for split in splits for output in split.outputs)
    assert_equal_outputs(finished, feeds, expected, 1e-5)  # as in test_export_fold
