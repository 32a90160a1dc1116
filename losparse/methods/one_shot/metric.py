"""What a one-shot method minimises: the metric in which the low-rank part of a layer is best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """Which outputs matter, and which inputs occur.

    Attributes:
        inputs: R R^T: a vector for a diagonal (in,), a symmetric positive semidefinite matrix (in, in), None for 1.
        outputs: L^2, what an error of each output costs: a vector (out,), or None for 1.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None
