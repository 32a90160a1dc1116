"""Low rank alone: a truncated SVD of every layer, fine-tuned afterwards.

The best rank-r approximation of a weight in the Frobenius norm (Eckart and Young, 1936). It is the ablation that
tells what the sparse part of LoSparse is worth, and the plainest method there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..budget import check_share, rank_for
from ..layers import FactoredLinear
from .losparse import balanced_svd

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True)
class SVD:
    """Truncated SVD at one share for every layer.

    Attributes:
        keep: kept share of the parameters of the compressed layers; (0, 1].
    """

    keep: float = 0.2

    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check every field."""
        check_share("keep", self.keep)

    @torch.no_grad()
    def start(self, name: str, weight: Tensor, bias: Tensor | None) -> FactoredLinear:
        """Factor a dense weight; the share is never exceeded unless rank 1 already does.

        Raises:
            LosparseError: the share leads to a rank at break-even.
        """
        out_features, in_features = weight.shape
        rank = rank_for(self.keep, out_features, in_features, name=name, round_up=False)
        layer = FactoredLinear(
            in_features,
            out_features,
            rank=rank,
            kept=0,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        u, v = balanced_svd(weight, rank)
        return layer.copy_(u=u, v=v, bias=bias)

    def callbacks(self) -> tuple[TrainerCallback, ...]:
        """Return nothing: training after the factoring is ordinary."""
        return ()
