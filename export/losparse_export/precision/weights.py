"""Matrices of int8 products: whole numbers with a scale a column."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graph.constants import add_constant

Array = NDArray[Any]

# The largest weight by its bits. With 7 the sum of two products of a byte and a weight fits into 16 bits, in which
# CPUs with AVX2 and no VNNI add them.
MOST = {7: 64.0, 8: 127.0}


def column_scales(matrix: Array, most: float) -> Array:
    """Return the step of every column, its largest number / the most steps; 1 for a column of zeros. (out,)."""
    scales = (np.abs(matrix).max(axis=0) / most).astype(np.float32)
    return np.where(scales > 0, scales, np.float32(1))


def store_columns(graph: ir.Graph, name: str, matrix: Array, scales: Array, most: float) -> list[ir.Value]:
    """Store a matrix in int8.

    Args:
        graph: where.
        name: of the matrix, after which its parts are called.
        matrix: float32 (in, out).
        scales: of its columns; float32 (out,).
        most: of `MOST`.

    Returns:
        What a DequantizeLinear on axis 1 takes: whole numbers, scales, zero points of 0.
    """
    steps = np.clip(np.rint(matrix / scales), -most, most).astype(np.int8)
    parts = {"quantized": steps, "scale": scales, "zero_point": np.zeros(len(scales), np.int8)}
    return [add_constant(graph, f"{name}_{part}", array) for part, array in parts.items()]
