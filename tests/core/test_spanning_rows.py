"""Rows that span a factor: few, well chosen, and repeatable."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from losparse.layers.spanning_rows import MAX_COEFFICIENT, _exchange, _pivoted_qr, spanning_rows


@pytest.mark.parametrize(("rows", "rank"), [(1, 1), (5, 1), (8, 8), (40, 6), (300, 100)])
def test_spanning_rows(rows, rank):
    for seed in range(5):
        factor = np.random.default_rng(seed).normal(size=(rows, rank))
        places, combine = spanning_rows(factor)
        assert places.tolist() == sorted(set(places.tolist())) and len(places) == rank
        assert np.array_equal(combine[places], np.eye(rank))
        assert np.abs(combine).max() <= MAX_COEFFICIENT * (1 + 1e-9)
        np.testing.assert_allclose(combine @ factor[places], factor, rtol=0, atol=1e-11)  # conditioned below 1e4


def test_rows_are_exchanged_where_pivoting_leaves_a_large_coefficient():
    """A long row (a, 0), then (-b, c) and (b, c), which is 2 b / a times the first plus once the second; the rest of
    the second column is spread over rows shorter than c."""
    a, c, others = 0.6, 0.15, 60
    b = ((1 - a**2) / 2) ** 0.5  # both columns have length 1
    short = np.full((others, 1), ((1 - 2 * c**2) / others) ** 0.5)
    basis = np.concatenate([[[a, 0], [-b, c], [b, c]], np.hstack([0 * short, short])])
    taken = _pivoted_qr(torch.from_numpy(basis))
    combine = np.linalg.solve(basis[taken].T, basis.T).T
    assert sorted(taken.tolist())[0] == 0 and np.abs(combine).max() == pytest.approx(2 * b / a) and 2 * b / a > 1.8
    places, combine = spanning_rows(basis)
    assert np.abs(combine).max() <= MAX_COEFFICIENT
    np.testing.assert_allclose(combine @ basis[places], basis, rtol=0, atol=1e-14)


def test_exchange_mends_bad_rows():
    """From rows that nearly depend on each other, whose coefficients are in the thousands."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 10)))[0]
    basis[1] = basis[0] + 1e-4 * basis[20]
    rows = np.arange(10)
    combine = np.linalg.solve(basis[rows].T, basis.T).T
    assert np.abs(combine).max() > 1000
    rows = _exchange(combine, rows)
    assert len(set(rows.tolist())) == 10
    assert np.abs(np.linalg.solve(basis[rows].T, basis.T)).max() <= MAX_COEFFICIENT * (1 + 1e-9)


def test_the_size_of_a_real_layer_takes_seconds():
    """1536x500 in about a second; the bound is for a busy machine."""
    factor = np.random.default_rng(0).normal(size=(1536, 500))
    start = time.perf_counter()
    places, combine = spanning_rows(factor)
    assert time.perf_counter() - start < 30
    np.testing.assert_allclose(combine @ factor[places], factor, rtol=0, atol=1e-9)
