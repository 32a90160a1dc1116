"""Rows of a matrix of which all other rows are combinations with small coefficients.

References:
    Businger and Golub, Numerische Mathematik 7 (1965): QR with column pivoting.
    Goreinov et al., "How to find a good submatrix" (2010): exchanging rows until all coefficients are bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Matrix = NDArray[np.float64]
Places = NDArray[np.int64]

# Largest magnitude of a coefficient. Pivoting alone mostly stays below it, but is only sure to stay below 2^(rank - 1).
MAX_COEFFICIENT = 1.5


def spanning_rows(factor: NDArray[Any]) -> tuple[Places, Matrix]:
    """Choose rows that span a factor, in double precision; the same factor gives the same rows.

    With an orthonormal basis Q of the columns, `factor = Q R`, the coefficients for rows P are C = Q Q_P^-1. The basis
    has full rank whatever the factor holds, so a factor of a lower rank, down to zero, is no special case.

    Args:
        factor: finite; (rows, rank), 1 <= rank <= rows.

    Returns:
        The spanning rows P, sorted; (rank,). And C with `factor = C factor[P]`: the identity at P, no entry above
        `MAX_COEFFICIENT` in magnitude; (rows, rank).
    """
    import torch  # here, so that planning an export loads no torch

    # numpy's own threads would fight for the cores with those of a model that has just run.
    basis = torch.linalg.qr(torch.from_numpy(factor.astype(np.float64))).Q
    rows = _pivoted_qr(basis)
    while True:
        rows = np.sort(rows)
        combine: Matrix = torch.linalg.solve(basis[torch.from_numpy(rows)].T, basis.T).T.numpy()
        combine[rows] = np.eye(len(rows))  # exactly
        # Exchanging may leave an entry just at the bound, which solving anew gives with other last bits.
        if np.abs(combine).max() <= MAX_COEFFICIENT * (1 + 1e-9):
            return rows, combine
        rows = _exchange(combine, rows)


def _pivoted_qr(basis: Tensor) -> Places:
    """Take the row that is farthest from the span of those taken, `rank` times.

    The squared distances of all rows add up to the number of steps left, so the farthest row is far from rounding at
    every step, though distances are updated and never computed anew.

    Args:
        basis: orthonormal columns; fp64 (rows, rank).

    Returns:
        Rows in the order taken; (rank,).
    """
    count, rank = basis.shape
    distances = basis.square().sum(1)  # squared; (rows,)
    directions = basis.new_zeros(rank, rank)  # one per row taken, orthonormal
    taken = np.zeros(rank, np.int64)
    for step in range(rank):
        row = taken[step] = int(distances.argmax())
        direction, earlier = basis[row].clone(), directions[:step]
        for _ in range(2):  # what rounding leaves after the first time is taken off the second
            direction -= earlier.T @ (earlier @ direction)
        direction /= direction.norm()
        directions[step] = direction
        distances -= (basis @ direction).square()
        distances[row] = -count  # never again
    return taken


def _exchange(combine: Matrix, rows: Places) -> Places:
    """Exchange spanning rows for rows of large coefficients until none is above the bound.

    Every exchange multiplies the volume of the spanning rows by more than the bound, so this comes to an end.

    Args:
        combine: coefficients of all rows, the identity at the spanning ones; (rows, rank).
        rows: the spanning rows; (rank,).

    Returns:
        Other spanning rows; (rank,).
    """
    combine, rows = combine.copy(), rows.copy()
    while True:
        row, place = np.unravel_index(np.abs(combine).argmax(), combine.shape)
        largest = combine[row, place]
        if abs(largest) <= MAX_COEFFICIENT:
            return rows
        change = combine[row].copy()
        change[place] -= 1.0
        combine -= np.outer(combine[:, place] / largest, change)
        rows[place] = row
