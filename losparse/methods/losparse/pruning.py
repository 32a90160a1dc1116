"""Structured pruning alone: LoSparse without its low-rank part.

The whole weight is the residual and whole neurons of it are dropped by the same scores and the same schedule. It is
the ablation that tells what the low-rank part is worth.
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from ...validation import checked
from ..base import Description
from .method import LoSparse


@checked
class StructuredPruning(LoSparse):
    """LoSparse at rank 0: `keep` is spent on kept rows (or columns) of the dense weight."""

    low_rank: float = field(default=0.0, init=False)

    description: ClassVar[Description] = Description(
        summary="whole neurons dropped while fine-tuning: LoSparse without low rank",
        needs=("labels", "gradients", "training"),
        cost="a fine-tuning",
        reference="the ablation of LoSparse, arXiv:2306.11222",
    )
