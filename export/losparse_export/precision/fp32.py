"""The graph as it was planned: what PyTorch computes, up to rounding."""

from __future__ import annotations

from .base import Precision

# One product of a few thousand terms rounds to about 1e-6, and a dozen layers of them in another order of summation to
# 1e-5 at most; a wrong weight, mask or position shows from 1e-3 up.
FP32 = Precision("fp32", "exact: the numbers of PyTorch", difference=1e-4, cosine=None)
