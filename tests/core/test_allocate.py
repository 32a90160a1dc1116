"""Spending a budget: against every possible choice on small cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse.methods.one_shot.allocate import Candidates, Size, last_blocks, spend_globally, uniform_rank


def candidates(errors: list[float], step: int) -> Candidates:
    return Candidates(
        [Size(rank) for rank in range(len(errors))], np.arange(len(errors)) * float(step), np.array(errors)
    )


def test_hull_leaves_out_what_is_never_best():
    # Rank 1 removes less per parameter than ranks 0 -> 2 do; rank 3 removes nothing.
    assert candidates([10.0, 8.0, 2.0, 2.0, 0.0], 1).hull() == [0, 2, 4]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 20), min_size=2, max_size=4), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(1, 5),
)
def test_no_choice_at_the_same_cost_is_better(gains, budget, step):
    """Greedy on the hulls is optimal for the budget that it uses up."""
    layers = {
        str(number): candidates(list(np.cumsum([0.0, *sorted(map(float, own))])[::-1]), step)
        for number, own in enumerate(gains)
    }
    sizes = spend_globally(layers, budget)
    spent = sum(sizes[name].rank * step for name in layers)
    assert spent <= budget
    error = sum(float(layers[name].errors[sizes[name].rank]) for name in layers)
    for choice in itertools.product(*(range(len(own.sizes)) for own in layers.values())):
        if sum(choice) * step <= spent:
            other = sum(float(own.errors[rank]) for own, rank in zip(layers.values(), choice, strict=True))
            assert error <= other + 1e-9


def test_equal_gains_are_taken_in_the_order_of_layers():
    layers = {name: candidates([1.0, 0.0], 1) for name in ("b", "a")}
    assert spend_globally(layers, 1) == {"b": Size(1), "a": Size(0)}


def test_uniform_rank_meets_the_budget():
    shapes = [(8, 8), (16, 8), (2, 8)]

    def cost(size: Size, out: int, width: int) -> int:
        return size.rank * (out + width)

    rank = uniform_rank(shapes, 0.5, cost)
    # Of 208 parameters, 104: rank 2 stores 2 * 16 + 2 * 24, and the third layer stays dense at 16, which is 96 in all;
    # rank 3 would store 3 * 16 + 3 * 24 + 16 = 136.
    assert rank == 2


def test_last_blocks_as_published():
    """LLM-ROM's settings for a model of 32 equal blocks."""
    parameters, blocks = {str(i): 100 for i in range(32)}, {str(i): i for i in range(32)}
    for keep, count, share in ((0.9, 8, 0.6), (0.8, 12, 0.46), (0.5, 24, 0.33)):
        shares = last_blocks(parameters, blocks, keep, count)
        assert [name for name, own in shares.items() if own < 1] == [str(i) for i in range(32 - count, 32)]
        assert shares["31"] == pytest.approx(share, abs=0.01)
        assert sum(shares.values()) / 32 == pytest.approx(keep)


def test_last_blocks_takes_as_few_as_it_can():
    parameters, blocks = {str(i): 100 for i in range(10)}, {str(i): i for i in range(10)}
    shares = last_blocks(parameters, blocks, 0.8, None)
    assert [name for name, own in shares.items() if own < 1] == ["7", "8", "9"]  # two would be left nothing


@pytest.mark.parametrize(("count", "message"), [(1, "hold 50%"), (3, "at most the model's 2 blocks")])
def test_last_blocks_refuses_what_cannot_be(count, message):
    with pytest.raises(LosparseError, match=message):
        last_blocks({"a": 1, "b": 1}, {"a": 0, "b": 1}, 0.4, count)
