"""How alike two vectors are, by the four measures of sentence-transformers; all are larger for what is more alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

Array = NDArray[Any]


def unit(vectors: Array) -> Array:
    """Scale vectors, (..., features), to length 1; one of zeros stays so."""
    scaled: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
    return scaled


def _dot(first: Array, second: Array) -> Array:
    product: Array = np.einsum("...i,...i->...", first, second)
    return product


def _cosine(first: Array, second: Array) -> Array:
    return _dot(unit(first), unit(second))


def _euclidean(first: Array, second: Array) -> Array:
    distance: Array = np.linalg.norm(first - second, axis=-1)
    return -distance


def _manhattan(first: Array, second: Array) -> Array:
    distance: Array = np.abs(first - second).sum(axis=-1)
    return -distance


_MEASURES: dict[str, Callable[[Array, Array], Array]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}


def similarity(measure: str, first: ArrayLike, second: ArrayLike) -> Array:
    """Compare every vector with every one of another collection.

    Args:
        measure: one of `SIMILARITIES`.
        first: (vectors, features), or one vector, (features,).
        second: the same, of as many features.

    Returns:
        float32 (vectors of the first, vectors of the second).

    Raises:
        InputError: they are no vectors of one length.
    """
    left, right = _pair(first, second)
    if measure in ("cosine", "dot"):  # one product of matrices, which is how they are made for
        both = (unit(left), unit(right)) if measure == "cosine" else (left, right)
        product: Array = both[0] @ both[1].T
        return product
    rows = [_MEASURES[measure](row, right) for row in left]  # row by row: a block of all differences may not fit
    return np.stack(rows) if rows else np.zeros((0, len(right)), np.float32)


def similarity_pairwise(measure: str, first: ArrayLike, second: ArrayLike) -> Array:
    """Compare each vector with the one at its place in another collection.

    Args:
        measure: one of `SIMILARITIES`.
        first: (vectors, features), or one vector, (features,).
        second: the same, of as many vectors and features.

    Returns:
        float32 (vectors,).

    Raises:
        InputError: they are no vectors of one length, or not as many.
    """
    left, right = _pair(first, second)
    if len(left) != len(right):
        raise InputError(f"embeddings2 must have {len(left)} vectors, as embeddings1 has, got {len(right)}")
    return _MEASURES[measure](left, right)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    arrays = []
    for name, value in (("embeddings1", first), ("embeddings2", second)):
        try:
            array = np.atleast_2d(np.asarray(value, np.float32))
        except (TypeError, ValueError):
            raise InputError(f"{name} must be vectors of numbers, all of one length") from None
        if array.ndim != 2:
            raise InputError(f"{name} must have shape (vectors, features), got {array.shape}")
        arrays.append(array)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise InputError(f"embeddings2 must have {arrays[0].shape[1]} features, got {arrays[1].shape[1]}")
    return arrays[0], arrays[1]
