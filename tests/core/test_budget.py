"""Shares, ranks and the global choice of groups, by numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse.layers.budget import pivot_rank, rank_for
from losparse.methods.losparse.coupling import select_groups


@pytest.mark.parametrize(
    ("share", "out", "in_", "up", "rank"),
    [
        (0.05, 768, 768, True, 20),  # 0.05 * 384 = 19.2
        (0.05, 3072, 768, True, 31),  # 0.05 * 614.4 = 30.72
        (0.05, 128, 128, True, 4),  # 0.05 * 64 = 3.2
        (0.2, 384, 384, False, 38),  # 0.2 * 192 = 38.4
        (0.001, 16, 16, False, 1),  # never below 1
    ],
)
def test_rank_for(share, out, in_, up, rank):
    assert rank_for(share, out, in_, name="layer", round_up=up) == rank


@pytest.mark.parametrize(
    ("share", "out", "in_", "rank"),
    [
        (0.8, 576, 576, 318),  # 318 * 834 = 265,212 of 265,420.8; 319 * 833 = 265,727
        (0.8, 192, 576, 141),  # 141 * 627 = 88,407 and 142 * 626 = 88,892, of 88,473.6
        (0.5, 8, 4, 1),  # 1 * 11 = 11 of 16; 2 * 10 = 20
        (1.0, 8, 4, 4),  # 4 * 8 = 32: all of it
        (0.001, 16, 16, 1),  # never below 1
    ],
)
def test_pivot_rank(share, out, in_, rank):
    assert pivot_rank(share, out, in_) == rank


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.001, 1.0))
def test_pivot_rank_is_the_largest_that_fits(out, in_, share):
    rank, allowed = pivot_rank(share, out, in_), share * in_ * out
    assert 1 <= rank <= min(out, in_)
    assert rank == 1 or rank * (out + in_ - rank) <= allowed
    assert rank == min(out, in_) or (rank + 1) * (out + in_ - rank - 1) > allowed


def test_refuses_break_even():
    with pytest.raises(LosparseError, match=r"below the break-even 8.0 for 'a.b' \(16x16\), got 8 from a share of 1"):
        rank_for(1.0, 16, 16, name="a.b", round_up=True)


def test_select_groups_weighs_by_size_and_stops_at_the_first_that_does_not_fit():
    scores = [torch.tensor([0.9, 0.1]), torch.tensor([0.8, 0.7, 0.2])]
    # by score: 0.9 (size 10), 0.8 (3), 0.7 (3), 0.2 (3), 0.1 (10); 10 + 3 + 3 = 16 fits into 18, one more does not
    first, second = select_groups(scores, [10, 3], 18)
    assert first.tolist() == [True, False]
    assert second.tolist() == [True, True, False]


def test_equal_scores_are_decided_by_layer_then_index():
    first, second = select_groups([torch.zeros(2), torch.zeros(3)], [1, 1], 3)
    assert first.tolist() == [True, True]
    assert second.tolist() == [True, False, False]


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 60))
def test_never_exceeds_the_budget_and_never_skips_a_better_group(scores, budget):
    tensors = [torch.tensor(row) for row in scores]
    sizes = [3 + i for i in range(len(tensors))]
    masks = select_groups(tensors, sizes, budget)
    spent = sum(int(mask.sum()) * size for mask, size in zip(masks, sizes, strict=True))
    assert spent <= budget
    kept = [float(s) for t, m in zip(tensors, masks, strict=True) for s in t[m]]
    dropped = [float(s) for t, m in zip(tensors, masks, strict=True) for s in t[~m]]
    assert not kept or not dropped or min(kept) >= max(dropped)
