"""ASVD: a singular value decomposition that minds how large each input is.

    min || (W - u v) diag(s) ||,   s_j = (mean |x_j|)^alpha        (ASVD, alpha 1/2)
                                   s_j = (mean x_j^2)^1/2          (AWSVD of LoRAP, and OATS)

References:
    ASVD, arXiv:2312.05821. LoRAP, arXiv:2404.09695. OATS, arXiv:2409.13652.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ...validation import ShareFrom0, checked
from ..base import Description
from .base import OneShot
from .metric import Metric

if TYPE_CHECKING:
    from ...calibration.statistics import LayerStatistics, Statistic


@checked
class ASVD(OneShot):
    """Low rank, inputs weighted by their size; needs texts, no labels and no gradients.

    Attributes:
        scale: "absolute" weighs an input feature by its mean absolute value (ASVD), "square" by the root of its mean
            square (AWSVD).
        alpha: exponent of that weight; 0 is plain SVD. ASVD has 0.5, AWSVD 1.
    """

    scale: Literal["absolute", "square"] = "absolute"
    alpha: ShareFrom0 = 0.5

    looks_at: ClassVar[frozenset[Statistic]] = frozenset({"square"})
    description: ClassVar[Description] = Description(
        summary="SVD with inputs weighted by their size",
        needs=("texts",),
        cost="one pass over some texts",
        reference="ASVD, arXiv:2312.05821; AWSVD, arXiv:2404.09695",
    )

    def metric(self, statistics: LayerStatistics) -> Metric:
        """Return the squared weights of the input features; (in,)."""
        inputs = statistics.inputs
        assert inputs is not None, "the driver collects what a method asks for"
        squared = (
            (inputs.absolute / inputs.tokens).square() if self.scale == "absolute" else inputs.square / inputs.tokens
        )
        return Metric(inputs=squared**self.alpha)
