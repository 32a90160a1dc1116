"""The weighted low-rank solver: optimal in its metric, whatever the metric is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.errors import LosparseError
from losparse.methods.one_shot.low_rank import balance, project
from losparse.methods.one_shot.metric import Metric


def gram(features: int, tokens: int, seed: int) -> torch.Tensor:
    x = torch.randn(tokens, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x *= torch.logspace(0, 2, features, dtype=torch.float64)
    return x.T @ x / tokens


def weight(out_features: int, in_features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(difference: torch.Tensor, metric: Metric) -> float:
    """Return || L D R ||^2, the slow way."""
    inputs = torch.eye(difference.shape[1], dtype=torch.float64) if metric.inputs is None else metric.inputs
    inputs = torch.diag(inputs) if inputs.dim() == 1 else inputs
    outputs = torch.eye(difference.shape[0], dtype=torch.float64) if metric.outputs is None else metric.outputs
    outputs = torch.diag(outputs) if outputs.dim() == 1 else outputs
    return float(torch.trace(outputs @ difference @ inputs @ difference.T))


METRICS = {
    "plain": lambda out, width: Metric(),
    "diagonal": lambda out, width: Metric(inputs=torch.linspace(0.1, 9.0, width, dtype=torch.float64)),
    "gram": lambda out, width: Metric(inputs=gram(width, 4 * width, 1)),
    "few tokens": lambda out, width: Metric(inputs=gram(width, max(1, width // 3), 1)),
    "both": lambda out, width: Metric(
        inputs=gram(width, 4 * width, 1), outputs=torch.linspace(1.0, 5.0, out, dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize(("out", "width"), [(12, 20), (20, 12), (9, 9)])
def test_factors_are_the_best_of_their_rank(kind, out, width):
    metric, dense = METRICS[kind](out, width), weight(out, width)
    found = project(dense, metric)
    for rank in (1, 3, min(out, width) - 1):
        u, v = found.factors(dense, rank)
        assert u.shape == (out, rank) and v.shape == (rank, width)
        lost = error(dense - u @ v, metric)
        total = error(dense, metric)
        # Rounding in fp64, relative to the whole; condition numbers here reach 1e4.
        assert lost == pytest.approx(float(found.lost()[rank]), abs=1e-9 * total)
        best = _best_by_svd(dense, metric, rank)
        assert lost <= best + 1e-9 * total


def _best_by_svd(dense: torch.Tensor, metric: Metric, rank: int) -> float:
    """The energy beyond the rank of L W R, with roots taken by eigenvectors: Eckart and Young."""

    def root(matrix: torch.Tensor | None, size: int) -> torch.Tensor:
        if matrix is None:
            return torch.eye(size, dtype=torch.float64)
        matrix = torch.diag(matrix) if matrix.dim() == 1 else matrix
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    scaled = root(metric.outputs, len(dense)) @ dense @ root(metric.inputs, dense.shape[1])
    return float(torch.linalg.svdvals(scaled)[rank:].square().sum())


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 3),
    st.sampled_from([1e-8, 1.0, 1e8]),
    st.sampled_from(sorted(METRICS)),
)
def test_any_shape_and_scale(out, width, seed, scale, kind):
    metric, dense = METRICS[kind](out, width), weight(out, width, seed) * scale
    found = project(dense, metric)
    total = error(dense, metric)
    rank = min(out, width)
    u, v = found.factors(dense, rank)
    assert error(dense - u @ v, metric) <= 1e-9 * total  # the full rank loses nothing that inputs can show
    lost = found.lost()
    assert torch.all(lost[1:] <= lost[:-1])


def test_svd_llm_is_uncentred_rom():
    """Cholesky whitening, as published, against the projection without any factor of the Gram matrix."""
    moment, dense = gram(10, 100, 3), weight(14, 10)
    whitening = torch.linalg.cholesky(moment)
    left, sigma, right = torch.linalg.svd(dense @ whitening, full_matrices=False)
    published = (left[:, :4] * sigma[:4]) @ right[:4] @ torch.linalg.inv(whitening)
    u, v = project(dense, Metric(inputs=moment)).factors(dense, 4)
    torch.testing.assert_close(u @ v, published, rtol=1e-9, atol=1e-9)


def test_row_errors_add_up_to_what_is_lost():
    metric, dense = METRICS["gram"](12, 20), weight(12, 20)
    found = project(dense, metric)
    torch.testing.assert_close(found.row_errors().sum(0), found.lost())
    u, v = found.factors(dense, 5)
    for row in range(12):
        residual = (dense - u @ v)[row]
        assert float(residual @ metric.inputs @ residual) == pytest.approx(float(found.row_errors()[row, 5]))


def test_zero_weight():
    found = project(torch.zeros(4, 6), Metric())
    u, v = found.factors(torch.zeros(4, 6), 2)
    assert torch.isfinite(u).all() and not (u @ v).any() and not found.lost().any()


def test_duplicated_rows_have_one_principal_output():
    dense = weight(1, 8).repeat(5, 1)
    found = project(dense, METRICS["gram"](5, 8))
    u, v = found.factors(dense, 1)
    torch.testing.assert_close(u @ v, dense)


@pytest.mark.parametrize("broken", ["weight", "metric"])
def test_refuses_what_is_not_finite(broken):
    dense, inputs = weight(4, 6), gram(6, 20, 0)
    (dense if broken == "weight" else inputs)[1, 2] = torch.nan
    with pytest.raises(LosparseError, match=rf"the {broken} of layer 'block\.q' holds NaN"):
        project(dense, Metric(inputs=inputs), "block.q")


def test_balance_keeps_the_product():
    u, v = weight(6, 3), weight(3, 5, 1) * 100
    even_u, even_v = balance(u, v)
    torch.testing.assert_close(even_u @ even_v, u @ v)
    torch.testing.assert_close(even_u.norm(dim=0), even_v.norm(dim=1))
