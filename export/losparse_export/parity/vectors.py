"""How far vectors of texts agree with PyTorch's: what a search by them sees.

The largest entry of a vector says nothing; two other things do. The cosine of every vector with its own, the mean and
the worst of them; and the order in which all other texts are near to one, which is what a search returns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losparse_runtime.tasks.scoring import pool

Array = NDArray[Any]


@dataclass(frozen=True)
class VectorAgreement:
    """How alike the vectors of some texts are on both sides.

    Attributes:
        mean_cosine: of a vector with PyTorch's of the same text.
        worst_cosine: the smallest of them.
        rank_agreement: Spearman's correlation of the nearness of all other texts, mean over the texts; 1 for one order.
        texts: texts compared.
    """

    mean_cosine: float
    worst_cosine: float
    rank_agreement: float
    texts: int

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)


class VectorComparison:
    """Vectors gathered over runs: `add` for each, `agreement` at the end.

    Args:
        pooling: how tokens become one vector, as `losparse_runtime.tasks.scoring.pool` names it.
    """

    def __init__(self, pooling: str) -> None:
        self._pooling = pooling
        self._sides: tuple[list[Array], list[Array]] = ([], [])

    def add(self, actual: Array, expected: Array, mask: Array) -> None:
        """Add the hidden states of one run of both sides, (batch, sequence, hidden), and its mask."""
        for values, vectors in zip((actual, expected), self._sides, strict=True):
            pooled = pool(values.astype(np.float32), mask, self._pooling).astype(np.float64)
            vectors.extend(pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12))

    def agreement(self) -> VectorAgreement:
        """Compare what was added."""
        actual, expected = (np.stack(vectors) for vectors in self._sides)
        cosines = (actual * expected).sum(axis=1)
        return VectorAgreement(
            float(cosines.mean()), float(cosines.min()), _rank_agreement(actual, expected), len(cosines)
        )


def _rank_agreement(actual: Array, expected: Array) -> float:
    """Correlate, text by text, the ranks of the other texts by nearness."""
    texts = len(actual)
    if texts < 3:
        return 1.0  # one other text has one place
    others = ~np.eye(texts, dtype=bool)
    ranks = []
    for vectors in (actual, expected):
        near = (vectors @ vectors.T)[others].reshape(texts, texts - 1)
        placed = near.argsort(axis=1).argsort(axis=1).astype(float)
        ranks.append(placed - placed.mean(axis=1, keepdims=True))
    products = (ranks[0] * ranks[1]).sum(axis=1) / (ranks[1] ** 2).sum(axis=1)
    return float(products.mean())
