"""FactoredLinear against the dense layer it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.methods.losparse.layer import FactoredLinearTraining

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def random_layer(
    out: int, in_: int, rank: int, kept: int, axis: str, bias: bool, dtype=torch.float32
) -> FactoredLinear:
    layer = FactoredLinear(in_, out, rank=rank, kept=kept, axis=axis, bias=bias, dtype=dtype)
    generator = torch.Generator().manual_seed(out * 100 + in_ * 10 + rank + kept)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    if kept:
        layer.kept.copy_(torch.randperm(out if axis == "out" else in_, generator=generator)[:kept].sort().values)
    return layer


@settings(max_examples=80, deadline=None)
@given(
    SHAPES, st.data(), st.sampled_from(["out", "in"]), st.booleans(), st.sampled_from([(), (1,), (3,), (2, 5), (0,)])
)
def test_forward_equals_dense_weight(shape, data, axis, bias, leading):
    out, in_ = shape
    rank = data.draw(st.integers(0, min(out, in_)))
    kept = data.draw(st.integers(0, out if axis == "out" else in_))
    layer = random_layer(out, in_, rank, kept, axis, bias)
    x = torch.randn(*leading, in_, generator=torch.Generator().manual_seed(0))
    expected = F.linear(x, layer.dense_weight(), layer.bias)
    assert layer(x).shape == (*leading, out)
    # fp32, sums of at most 24 products of O(1) numbers: a few ulps of about 20
    torch.testing.assert_close(layer(x), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("axis", ["out", "in"])
def test_bfloat16(axis):
    layer = random_layer(8, 6, 2, 3, axis, True, torch.bfloat16)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    expected = F.linear(x.float(), layer.dense_weight().float(), layer.bias.float())
    # bf16 keeps 8 bits: 0.4 % of the largest intermediate (about 10) per rounding, a handful of roundings
    torch.testing.assert_close(layer(x).float(), expected, atol=0.2, rtol=0.03)


@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize("rank", [0, 2])
def test_autocast_gives_bfloat16_everywhere(axis, rank):
    layer = random_layer(8, 6, rank, 3, axis, True)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 6)).dtype == torch.bfloat16


def test_counts_only_what_the_budget_counts():
    assert random_layer(8, 6, 2, 3, "out", True).parameter_count() == 2 * (8 + 6) + 3 * 6
    assert random_layer(8, 6, 2, 3, "in", True).parameter_count() == 2 * (8 + 6) + 3 * 8


def test_state_dict_holds_only_compact_tensors():
    shapes = {name: tuple(t.shape) for name, t in random_layer(8, 6, 2, 3, "out", True).state_dict().items()}
    assert shapes == {"u": (8, 2), "v": (2, 6), "sparse": (3, 6), "kept": (3,), "bias": (8,)}
    assert set(random_layer(8, 6, 0, 0, "out", False).state_dict()) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 7, "kept": 0}, "rank must be in 0..6 for a 8x6 layer, got 7"),
        ({"rank": 0, "kept": 9}, "kept must be in 0..8 for a 8x6 layer, got 9"),
        ({"rank": 0, "kept": 7, "axis": "in"}, "kept must be in 0..6"),
        ({"rank": 0, "kept": 0, "axis": "rows"}, "axis must be 'out'"),
    ],
)
def test_refuses_impossible_sizes(arguments, message):
    with pytest.raises(LosparseError, match=message.replace("(", r"\(")):
        FactoredLinear(6, 8, **arguments)


@pytest.mark.parametrize("axis", ["out", "in"])
def test_training_form_compacts_to_the_same_function(axis):
    layer = FactoredLinearTraining(6, 8, rank=2, axis=axis)
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    layer.mask[::2] = False
    layer.apply_mask()
    x = torch.randn(3, 6, generator=generator)
    small = layer.compact()
    assert small.kept_count == int(layer.mask.sum())
    assert small.parameter_count() == layer.parameter_count()
    torch.testing.assert_close(small(x), layer(x), atol=1e-5, rtol=1e-5)  # fp32, two orders of summation


def test_a_kept_row_whose_entries_cancel_stays():
    layer = FactoredLinearTraining(2, 2, rank=0, bias=False)
    layer.sparse.data = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    layer.mask[1] = False
    assert layer.compact().kept.tolist() == [0]


def test_gradients_are_those_of_the_sum():
    layer = FactoredLinearTraining(3, 4, rank=2)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    layer(x).square().sum().backward()
    dense = layer.dense_weight().requires_grad_()
    F.linear(x, dense, layer.bias.detach()).square().sum().backward()
    torch.testing.assert_close(layer.sparse.grad, dense.grad)
    torch.testing.assert_close(layer.u.grad, dense.grad @ layer.v.detach().T)
    torch.testing.assert_close(layer.v.grad, layer.u.detach().T @ dense.grad)
