"""The graph as it was planned: what PyTorch computes, up to rounding."""

from __future__ import annotations

from losparse_runtime.contract.variant import INT8_EMBEDDINGS

from .base import Precision

# One product of a few thousand terms rounds to about 1e-6, and a dozen layers of them in another order of summation to
# 1e-5 at most; a wrong weight, mask or position shows from 1e-3 up.
FP32 = Precision("fp32", "exact: the numbers of PyTorch", difference=1e-4, cosine=None)

# The same graph with embedding tables of int8 rows, an option of fp32.
FP32_INT8_TABLES = Precision(
    f"{FP32.name}{INT8_EMBEDDINGS}",
    "exact but for the embedding tables, whose rows are int8",
    # Measured 0.043 and 0.9997, as the bounds in `table` were. What rounding leaves is a change of the first input of
    # all layers, so no number of the graph says it: half a scale of a row is 0.4 % of its largest number.
    difference=0.2,
    cosine=0.997,
)
