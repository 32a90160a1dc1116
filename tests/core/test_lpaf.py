"""LPAF: each formula against numbers by hand or a slow reference, and the layer of two ranks."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse import LPAF, compact_, compress_
from losparse.errors import LosparseError
from losparse.methods.losparse.algorithm import balanced_svd
from losparse.methods.lpaf.algorithm import (
    accumulate_score,
    draw_high_rank,
    factor,
    highest,
    prune,
    row_weights,
    sparsity_aware_svd,
)
from losparse.methods.lpaf.layer import MixedRankLinear

from .conftest import build_bert


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse_weight(out: int = 20, in_: int = 14, share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a pruned weight and weights of its rows; the first rows keep more than the last, row 3 keeps nothing."""
    odds = torch.linspace(2 * share, 0.1 * share, out)
    mask = torch.rand(out, in_, generator=torch.Generator().manual_seed(1)) < odds[:, None]
    mask[3] = False
    score = torch.rand(out, in_, generator=torch.Generator().manual_seed(2))
    return normal(out, in_) * mask, row_weights(score, mask)


# Stage 1


@pytest.mark.parametrize(
    ("score", "expected"),
    # -W g: -3 and 1; 2 and 2; -1 and -1; a zero weight moves nowhere by this score
    [("movement", [[-2.0, 4.0], [-2.0, 0.0]]), ("sensitivity", [[4.0, 4.0], [2.0, 0.0]])],
)
def test_scores_by_hand(score, expected):
    layer = MixedRankLinear(2, 2, rank=1, bias=False)
    layer.sparse.data = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    accumulate_score(layer, torch.tensor([[3.0, 1.0], [2.0, 9.0]]), score)
    accumulate_score(layer, torch.tensor([[-1.0, 1.0], [2.0, 9.0]]), score)
    assert layer.score.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=24), st.data())
def test_the_highest_are_those_of_a_stable_sort(scores, data):
    count = data.draw(st.integers(1, len(scores)))
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    found = highest(torch.tensor(scores, dtype=torch.float32), count)
    assert found.nonzero().flatten().tolist() == sorted(expected)


def test_pruning_takes_the_lowest_scores_of_what_is_left():
    layer = MixedRankLinear(2, 2, rank=1, bias=False)
    layer.sparse.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    layer.score.copy_(torch.tensor([[-5.0, 1.0], [3.0, 2.0]]))
    prune(layer, 0.75)
    assert layer.sparse.tolist() == [[0.0, 2.0], [3.0, 4.0]]
    layer.sparse.data[0, 0] = 7.0  # an optimizer's moments revive it
    layer.score[0, 0] = 9.0
    prune(layer, 0.5)
    assert layer.mask.tolist() == [[False, False], [True, True]], "pruned weights do not come back"
    assert layer.sparse.tolist() == [[0.0, 0.0], [3.0, 4.0]]
    prune(layer, 1e-9)
    assert layer.mask.sum() == 1, "no matrix vanishes"


# Stages


def test_stages_by_hand():
    method = LPAF(keep=0.2, density=0.3, initial_share=0.1, prune_share=0.3, settle_share=0.1, mixed_share=0.3)
    stages = method.schedule(100)  # 1..10 dense, 11..40 ramp, 41..50 settled, 51..80 mixed, 81..100 factors alone
    assert (stages.pruning.initial, stages.boundary, stages.mixed, stages.total) == (10, 50, 80, 100)
    assert stages.pruning.kept_share(10, 0.3) == 1.0
    assert stages.pruning.kept_share(25, 0.3) == pytest.approx(0.3 + 0.7 / 8)  # half of the ramp: 0.5^3
    assert [stages.pruning.is_final(step) for step in (39, 40)] == [False, True]
    # 0.5 over 30 steps: all of it at the first, half of it at the sixteenth, a thirtieth at the last
    probabilities = [stages.high_rank_probability(step) for step in (50, 51, 66, 80, 81, 100)]
    assert probabilities == pytest.approx([1.0, 0.5, 0.25, 0.5 / 30, 0.0, 0.0])


def test_mixing_falls_to_zero_and_stays():
    stages = LPAF(mixed_start=1.0).schedule(60)
    falling = [stages.high_rank_probability(step) for step in range(stages.boundary + 1, 61)]
    assert falling[0] == 1.0
    assert all(a > b or a == b == 0.0 for a, b in itertools.pairwise(falling))
    assert falling.count(0.0) == 60 - stages.mixed == 12  # a fifth of the steps


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        (LPAF(prune_share=0.01), 20, "at least 1 step to prune, training has 20 in all"),
        (LPAF(mixed_share=0.01), 20, "at least 1 step to mix"),
        (LPAF(mixed_share=0.49), 20, "at least 1 step to train the factors alone"),
    ],
)
def test_a_stage_without_a_step_is_refused(method, steps, message):
    with pytest.raises(LosparseError, match=message):
        method.schedule(steps)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"density": 0.0}, r"density must be a number in \(0, 1\], or null, got 0.0"),
        ({"uniform_rank": 0}, "uniform_rank must be a whole number of 1 or more, or null, got 0"),
        ({"score": "magnitude"}, "score must be one of movement, sensitivity, got 'magnitude'"),
        ({"window": 0}, "window must be a whole number of 1 or more, got 0"),
        ({"initial_share": -0.1}, r"initial_share must be a number in \[0, 1\)"),
        ({"settle_share": 1.0}, r"settle_share must be a number in \[0, 1\)"),
        ({"prune_share": 0.0}, r"prune_share must be a number in \(0, 1\)"),
        ({"mixed_share": float("nan")}, r"mixed_share must be a finite number in \(0, 1\)"),
        ({"mixed_start": 1.1}, r"mixed_start must be a number in \[0, 1\], got 1.1"),
        ({"mixed_share": 0.5}, r"must be below 1 to leave steps .* got 0.05 \+ 0.35 \+ 0.1 \+ 0.5"),
    ],
)
def test_refuses_values_out_of_range(kwargs, message):
    with pytest.raises(LosparseError, match=message):
        LPAF(**kwargs)


@pytest.mark.parametrize(
    ("pivots", "ranks", "limit"),
    # plain: 0.3 of 16 and 21.3; pivots: 5 * 59 = 295 of 307 parameters, 7 * 89 = 623 of 614 are too many, 6 * 90 = 540
    [(False, [4, 6], 16), (True, [5, 6], 32)],
    ids=["plain", "pivots"],
)
def test_rank_follows_keep_or_is_the_same_everywhere(pivots, ranks, limit):
    sizes = ((32, 32), (64, 32))
    assert [LPAF(keep=0.3, pivots=pivots).rank_of("a", *size) for size in sizes] == ranks
    assert [LPAF(uniform_rank=5, pivots=pivots).rank_of("a", *size) for size in sizes] == [5, 5]
    with pytest.raises(LosparseError, match=rf"below the break-even {limit}.0 for 'a' \(32x32\), got {limit}"):
        LPAF(uniform_rank=limit, pivots=pivots).rank_of("a", 32, 32)


# Stage 2


def test_row_weights_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    score = torch.tensor([[4.0, 2.0, 1.0, -8.0], [1.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    # (4 + 2 + 1) / 4; 1 / 4; nothing survived: a hundredth of the mean (7 + 1) / 12
    torch.testing.assert_close(row_weights(score, mask), torch.tensor([1.75, 0.25, 0.01 * 8 / 12]).sqrt())
    assert row_weights(-score.abs(), mask).tolist() == [1.0, 1.0, 1.0], "no importance at all: a plain SVD"


# In fp64, so that the best can be told from its neighbours


def weighted_error(weight: torch.Tensor, d: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    return (d[:, None] * (weight - product)).square().sum()


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_factors_are_the_best_in_the_weighted_norm(rank):
    weight, d = (tensor.double() for tensor in sparse_weight())
    u, v = sparsity_aware_svd(weight, d, rank)
    best = weighted_error(weight, d, u @ v)
    # Eckart-Young: what is left is the energy of the singular values that were left out
    sigma = torch.linalg.svdvals(d[:, None] * weight)
    torch.testing.assert_close(best, sigma[rank:].square().sum(), rtol=1e-9, atol=0)  # fp64, rounding alone
    plain = balanced_svd(weight, rank)
    assert weighted_error(weight, d, plain[0] @ plain[1]) > best * 1.001, "the weights matter"
    for seed in range(50):
        for size in (1e-3, 1e-2, 0.3):
            du, dv = normal(*u.shape, seed=seed) * size, normal(*v.shape, seed=seed + 99) * size
            assert weighted_error(weight, d, (u + du) @ (v + dv)) > best


def test_a_slow_solver_of_the_weighted_problem_finds_nothing_better():
    weight, d = (tensor.double() for tensor in sparse_weight())
    u, v = sparsity_aware_svd(weight, d, 3)
    best = weighted_error(weight, d, u @ v)
    for seed in range(3):
        B = normal(3, 14, seed=seed).double()
        for _ in range(400):  # alternating least squares: A of every row, then B with the rows' weights
            A = torch.linalg.lstsq(B.T, weight.T).solution.T
            B = torch.linalg.lstsq(d[:, None] * A, d[:, None] * weight).solution
        found = weighted_error(weight, d, A @ B)
        assert found >= best * (1 - 1e-9)  # fp64, rounding alone
        torch.testing.assert_close(found, best, rtol=1e-3, atol=0)  # and it does converge to the same


def test_dead_rows_and_columns_stay_finite_and_zero():
    weight, d = sparse_weight()
    weight[:, 5] = 0.0
    u, v = sparsity_aware_svd(weight, d, 6)
    assert torch.isfinite(u).all() and torch.isfinite(v).all()
    # fp32 zeros of an SVD of O(1) numbers, divided by d of at least a tenth of its mean
    assert (u @ v)[3].abs().max() < 1e-5
    assert (u @ v)[:, 5].abs().max() < 1e-5


def test_a_matrix_of_lower_rank_than_asked_is_met():
    weight = torch.zeros(8, 6)
    weight[2, 1] = 3.0
    u, v = sparsity_aware_svd(weight, row_weights(weight.abs(), weight != 0), 4)
    torch.testing.assert_close(u @ v, weight)


def test_half_precision_is_factored_in_fp32():
    weight, d = sparse_weight()
    u, v = sparsity_aware_svd(weight.bfloat16(), d, 14)
    assert u.dtype == v.dtype == torch.float32
    # full rank: all that is lost is the bf16 rounding of the weight, which the comparison shares
    torch.testing.assert_close(u @ v, weight.bfloat16().float(), atol=1e-4, rtol=1e-4)


# Stage 3


def test_draws_follow_from_seed_and_step_alone():
    state = torch.random.get_rng_state()
    draws = [draw_high_rank(0.5, 40, seed=seed, step=step) for seed, step in ((0, 7), (0, 7), (0, 8), (1, 7))]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2] and draws[0] != draws[3] and draws[2] != draws[3]
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is not touched"
    assert draw_high_rank(0.0, 40, seed=0, step=1) == [False] * 40
    assert draw_high_rank(1.0, 40, seed=0, step=1) == [True] * 40


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_draws_have_their_probability_and_do_not_depend_on_their_neighbours(probability):
    drawn = torch.tensor([draw_high_rank(probability, 12, seed=3, step=step) for step in range(2000)]).double()
    spread = (probability * (1 - probability)) ** 0.5
    # five standard errors, over 12 layers: no false alarm in a thousand seeds
    assert (drawn.mean(dim=0) - probability).abs().max() < 5 * spread / 2000**0.5
    centred = (drawn - probability) / spread
    assert (centred[1:] * centred[:-1]).mean().abs() < 5 / (12 * 2000) ** 0.5, "steps"
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 5 / (11 * 2000) ** 0.5, "layers"


# The layer


def filled(factored: bool = True) -> MixedRankLinear:
    layer = MixedRankLinear(6, 8, rank=2)
    layer.copy_(sparse=normal(8, 6), u=normal(8, 2, seed=1), v=normal(2, 6, seed=2), bias=normal(8, seed=3))
    layer.factored.fill_(factored)
    return layer


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("high_rank", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_which_matrix_is_used(factored, high_rank, training):
    layer = filled(factored).train(training)
    layer.high_rank.fill_(high_rank)
    uses_sparse = high_rank if training else not factored
    x = normal(3, 6, seed=4)
    weight = layer.sparse if uses_sparse else layer.u @ layer.v
    assert torch.equal(layer(x), F.linear(x, weight, layer.bias))
    assert torch.equal(layer.dense_weight(), layer.u @ layer.v if factored else layer.sparse)


@pytest.mark.parametrize("high_rank", [False, True])
def test_gradients_reach_all_parameters_and_are_zero_where_nothing_was_used(high_rank):
    layer = filled()
    layer.high_rank.fill_(high_rank)
    x = normal(5, 6, seed=4)
    layer(x).square().sum().backward()
    dense = (layer.sparse if high_rank else layer.u @ layer.v).detach().requires_grad_()
    F.linear(x, dense, layer.bias.detach()).square().sum().backward()
    nothing = torch.zeros(())
    torch.testing.assert_close(layer.sparse.grad, dense.grad if high_rank else nothing.expand(8, 6))
    torch.testing.assert_close(layer.u.grad, nothing.expand(8, 2) if high_rank else dense.grad @ layer.v.detach().T)
    torch.testing.assert_close(layer.v.grad, nothing.expand(2, 6) if high_rank else layer.u.detach().T @ dense.grad)


def test_autocast_computes_both_ways_in_bfloat16():
    layer = filled()
    for high_rank in (False, True):
        layer.high_rank.fill_(high_rank)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(normal(3, 6, seed=4))
        assert y.dtype == torch.bfloat16
        y.float().sum().backward()
    assert layer.sparse.grad.dtype == layer.u.grad.dtype == torch.float32


def test_factoring_fills_the_factors_and_switches_evaluation():
    layer = filled(factored=False).eval()
    layer.score.copy_(normal(8, 6, seed=5).abs())
    prune(layer, 0.5)
    assert layer.parameter_count() == 48 and layer.kept_groups == 8
    factor(layer)
    u, v = sparsity_aware_svd(layer.sparse.data, row_weights(layer.score, layer.mask), 2)
    assert torch.equal(layer.u, u) and torch.equal(layer.v, v)
    assert layer.parameter_count() == 2 * (8 + 6) and layer.kept_groups == 0
    small = layer.compact()
    assert (small.rank, small.kept_count, small.sparse) == (2, 0, None)
    x = normal(3, 6, seed=4)
    torch.testing.assert_close(small(x), layer(x), atol=1e-5, rtol=1e-5)  # fp32, two orders of summation


def test_what_is_not_factored_has_no_small_form():
    with pytest.raises(LosparseError, match="8x6 layer is not factored yet"):
        filled(factored=False).compact()
    model = build_bert()
    compress_(model, LPAF(keep=1.0, uniform_rank=3))
    with pytest.raises(LosparseError, match="is not factored yet"):
        compact_(model)
    with pytest.raises(LosparseError, match="rank must be at least 1 for a mixed-rank layer, got 0"):
        MixedRankLinear(6, 8, rank=0)
