"""Low-rank parts stored by pivots against plain factors: the same layer, rank^2 parameters fewer."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.pivots import to_pivots
from losparse.layers.spanning_rows import MAX_COEFFICIENT
from losparse.methods.losparse.layer import FactoredLinearTraining

from .test_layers import SHAPES, random_layer

SIDES = st.sampled_from(["out", "in"])


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.data(), SIDES, SIDES, st.booleans(), st.sampled_from([(), (1,), (3,), (2, 5), (0,)]))
def test_the_same_layer(shape, data, side, axis, bias, leading):
    out, in_ = shape
    rank = data.draw(st.integers(1, min(out, in_)))
    kept = data.draw(st.integers(0, out if axis == "out" else in_))
    plain = random_layer(out, in_, rank, kept, axis, bias)
    layer = to_pivots(plain, side)
    stored = sum(p.numel() for name, p in layer.named_parameters() if name != "bias")
    assert layer.parameter_count() == stored == plain.parameter_count() - rank**2
    # fp32, sums of at most 12 products of O(1) numbers: 3e-6, and a row combines 12 pivots at most 1.5 times
    torch.testing.assert_close(layer.dense_weight(), plain.dense_weight(), atol=5e-5, rtol=1e-5)
    x = torch.randn(*leading, in_, generator=torch.Generator().manual_seed(0))
    assert layer(x).shape == (*leading, out)
    torch.testing.assert_close(layer(x), plain(x), atol=2e-4, rtol=1e-5)  # and 12 inputs
    pivots = layer.pivots.tolist()
    assert pivots == sorted(set(pivots)) and len(pivots) == rank
    assert all(0 <= pivot < (out if side == "out" else in_) for pivot in pivots)


@pytest.mark.parametrize(
    ("out", "in_", "rank", "side", "u", "v"),
    [
        (8, 6, 1, "out", (7, 1), (1, 6)),
        (8, 6, 5, "out", (3, 5), (5, 6)),
        (8, 6, 6, "out", (2, 6), (6, 6)),
        (6, 8, 6, "out", None, (6, 8)),  # every output is a pivot
        (8, 6, 1, "in", (8, 1), (1, 5)),
        (8, 6, 5, "in", (8, 5), (5, 1)),
        (6, 8, 6, "in", (6, 6), (6, 2)),
        (8, 6, 6, "in", (8, 6), None),  # every input is a pivot
    ],
)
def test_shapes(out, in_, rank, side, u, v):
    plain = random_layer(out, in_, rank, 2, "out", True)
    layer = to_pivots(plain, side)
    expected = {"u": u, "v": v, "pivots": (rank,), "sparse": (2, in_), "kept": (2,), "bias": (out,)}
    found = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert found == {name: shape for name, shape in expected.items() if shape is not None}
    assert layer.pivots.dtype == torch.int64
    full_u, full_v = layer.factors()
    assert (full_u.shape, full_v.shape) == ((out, rank), (rank, in_))
    identity = full_u[layer.pivots] if side == "out" else full_v[:, layer.pivots]
    assert torch.equal(identity, torch.eye(rank))
    torch.testing.assert_close(full_u @ full_v, plain.u @ plain.v, atol=2e-5, rtol=1e-5)  # as in test_the_same_layer
    x = torch.randn(3, in_, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), plain(x), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("side", ["out", "in"])
@pytest.mark.parametrize(("rank", "axis"), [(1, "out"), (3, "out"), (3, "in"), (6, "out")])
def test_gradients_are_those_of_the_dense_weight(side, rank, axis):
    layer = to_pivots(random_layer(8, 6, rank, 2, axis, True, torch.float64), side)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())
    found = torch.autograd.grad(layer(x).square().sum(), [x, *parameters.values()])
    u, v = layer.factors()
    weight = (u @ v).index_add(0 if axis == "out" else 1, layer.kept, layer.sparse)
    expected = torch.autograd.grad(F.linear(x, weight, layer.bias).square().sum(), [x, *parameters.values()])
    for name, one, other in zip(["x", *parameters], found, expected, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")  # float64's default, 1e-7


@pytest.mark.parametrize("side", ["out", "in"])
def test_a_layer_with_pivots_learns(side):
    """Fitting a target of the same rank takes the loss to a hundredth: every stored tensor gets its gradient."""
    target = random_layer(8, 6, 2, 0, "out", True).dense_weight()
    layer = to_pivots(random_layer(8, 6, 2, 1, "out", True), side)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        loss = F.mse_loss(layer(x), x @ target.T + 1.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("side", ["out", "in"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(side, dtype):
    plain = random_layer(48, 32, 9, 3, "out", True, dtype)
    layer = to_pivots(plain, side)
    assert {tensor.dtype for tensor in layer.parameters()} == {dtype} and layer.pivots.dtype == torch.int64
    exact = (plain.u.double() @ plain.v.double()).detach()
    u, v = layer.factors()
    error = torch.linalg.matrix_norm(u.double() @ v.double() - exact) / torch.linalg.matrix_norm(exact)
    assert error <= torch.finfo(dtype).eps  # each number is rounded to half of that, and sums of 9 average it out
    assert layer(torch.ones(2, 32, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("side", ["out", "in"])
def test_autocast_gives_bfloat16(side):
    layer = to_pivots(random_layer(8, 6, 2, 3, "out", True), side)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 6)).dtype == torch.bfloat16


def degenerate(kind: str) -> FactoredLinear:
    layer = random_layer(10, 8, 4, 2, "out", True)
    u, v = layer.u.data, layer.v.data
    if kind == "zero":
        u.zero_()
    elif kind == "zero factors":
        u.zero_(), v.zero_()
    elif kind == "rank 2 in u":
        u[:, 2:] = u[:, :2]
    elif kind == "rank 1 in v":
        v[1:] = v[0]
    elif kind == "equal rows":
        u[1:6] = u[0]
    elif kind == "equal columns":
        v[:, 1:6] = v[:, :1]
    elif kind == "graded":  # columns of lengths from 1 to 1e-9
        u *= 10.0 ** -torch.arange(0, 12, 3)
    else:
        u[3] *= 1e6
    return layer


KINDS = ["zero", "zero factors", "rank 2 in u", "rank 1 in v", "equal rows", "equal columns", "graded", "one large row"]


@pytest.mark.parametrize("side", ["out", "in"])
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_factors(kind, side):
    plain = degenerate(kind)
    layer = to_pivots(plain, side)
    assert len(set(layer.pivots.tolist())) == 4
    combine = layer.u if side == "out" else layer.v
    assert combine.abs().max() <= MAX_COEFFICIENT * (1 + 1e-6)  # rounded to fp32
    # fp32, as above: small rows keep their digits beside large ones
    torch.testing.assert_close(layer.dense_weight(), plain.dense_weight(), atol=2e-5, rtol=1e-5)


def test_from_one_side_to_the_other():
    plain = random_layer(9, 7, 3, 2, "in", True)
    layer = to_pivots(to_pivots(plain, "out"), "in")
    assert layer.pivot_side == "in" and layer.v.shape == (3, 4)
    torch.testing.assert_close(layer.dense_weight(), plain.dense_weight(), atol=2e-5, rtol=1e-5)


def test_the_choice_is_repeatable_and_the_layer_unchanged():
    plain = random_layer(40, 30, 12, 0, "out", True).eval()
    before = copy.deepcopy(plain.state_dict())
    one, other = to_pivots(plain, "out"), to_pivots(plain, "out")
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())
    assert one.training is False


def test_refuses():
    with pytest.raises(LosparseError, match="rank 0 has no low-rank part"):
        to_pivots(random_layer(4, 4, 0, 2, "out", True), "out")
    with pytest.raises(LosparseError, match=r"training form; call compact_\(model\) first"):
        to_pivots(FactoredLinearTraining(4, 4, rank=2), "out")
    with pytest.raises(LosparseError, match=r"must be 'out' .* or 'in' .*, got 'rows'"):
        to_pivots(random_layer(4, 4, 2, 0, "out", True), "rows")
    with pytest.raises(LosparseError, match=r"pivot_side must be 'out' .* got 'rows'"):
        FactoredLinear(4, 4, rank=2, kept=0, pivot_side="rows")
    broken = random_layer(4, 4, 2, 0, "out", True)
    broken.v.data[0, 0] = float("nan")
    with pytest.raises(LosparseError, match="NaN or infinity"):
        to_pivots(broken, "in")


@pytest.mark.parametrize("scale", [1e-4, 300.0])
def test_refuses_a_product_outside_half_precision(scale):
    """Products of 1e-8 are below fp16's smallest number, those of 90,000 above its largest."""
    layer = random_layer(8, 6, 2, 0, "out", True)
    layer.u.data *= scale
    layer.v.data *= scale
    to_pivots(layer, "out")
    with pytest.raises(LosparseError, match=r"stored in float16: its relative error may be 3\.9e-03, got"):
        to_pivots(layer.half(), "out")


def test_extra_repr_and_rank_zero():
    assert "pivot_side='in'" in repr(to_pivots(random_layer(4, 4, 2, 0, "out", True), "in"))
    layer = FactoredLinear(4, 3, rank=0, kept=1, pivot_side="out")
    assert layer.pivot_side is None and "pivots" not in repr(layer) and layer.factors() is None
