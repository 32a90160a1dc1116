"""Low rank alone: a truncated SVD of every layer, fine-tuned afterwards.

The best rank-r approximation of a weight in the Frobenius norm (Eckart and Young, 1936). It is the ablation that
tells what the sparse part of LoSparse is worth, and the plainest method there is: no data, no metric.
"""

from __future__ import annotations

from typing import ClassVar

from ...validation import checked
from ..base import Description
from .base import OneShot


@checked
class SVD(OneShot):
    """Truncated SVD; see `OneShot` for the budget, and for what it stores."""

    description: ClassVar[Description] = Description(
        summary="truncated SVD of every weight",
        needs=(),
        cost="seconds, then a fine-tuning",
        reference="Eckart and Young, 1936",
    )
