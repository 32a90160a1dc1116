"""FWSVD: a singular value decomposition that minds how much the loss depends on each input feature.

    F = mean over examples of (dL/dW)^2      empirical Fisher information of every weight
    f_j = sum_i F_ij                         one importance per input feature, so that a closed form exists
    min || (W - u v) diag(sqrt f) ||         the paper's eq. 5; our weights are (out, in), its are (in, out)

Importances are clamped from below: a feature that no example used is not worth nothing. It needs labels (or a loss
of any kind) and one backward pass per example, and is usually followed by fine-tuning.

References:
    Language model compression with weighted low-rank factorization, arXiv:2207.00112. The root is not printed in
    every copy of the paper; the weighted squared error needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ...validation import Flag, Share, checked
from ..base import Description
from .base import OneShot
from .metric import Metric

if TYPE_CHECKING:
    from ...calibration.statistics import LayerStatistics, Statistic


@checked
class FWSVD(OneShot):
    """Low rank, input features weighted by Fisher information; needs labels and gradients.

    Attributes:
        fisher: "exact" squares the gradient of every example; "fast" that of every batch, which costs as little as
            an epoch of training and keeps the order of features mostly.
        floor: smallest importance, as a share of the mean one.
        two_sided: also weigh output neurons by their Fisher information (not in the paper).
    """

    fisher: Literal["exact", "fast"] = "exact"
    floor: Share = 1e-3
    two_sided: Flag = False

    looks_at: ClassVar[frozenset[Statistic]] = frozenset({"fisher"})
    description: ClassVar[Description] = Description(
        summary="SVD with input features weighted by Fisher information",
        needs=("labels", "gradients"),
        cost="a backward pass a text, then a fine-tuning",
        reference="FWSVD, arXiv:2207.00112",
    )

    def metric(self, statistics: LayerStatistics) -> Metric:
        """Return the importance of every input feature, (in,), and of every output neuron if asked for, (out,)."""
        importance, outputs = statistics.fisher_in, statistics.fisher_out
        assert importance is not None and outputs is not None, "the driver collects what a method asks for"
        clamped = importance.clamp(min=self.floor * float(importance.mean()))
        return Metric(inputs=clamped, outputs=outputs if self.two_sided else None)
