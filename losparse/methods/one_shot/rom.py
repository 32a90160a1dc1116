"""LLM-ROM: every layer's outputs projected on their principal subspace. This file reads like the paper.

    Y = W X                          outputs of the layer on calibration texts
    U = eigenvectors of Y Y^T        the r largest: principal outputs                      (section 3)
    W' = U U^T W                     two layers: v = U^T W, u = U
    b' = b + (W - W') E[x]           our addition: the bias keeps the mean of what is dropped, and U then follows
                                     the covariance; Bolaco (arXiv:2405.10616, eq. 2) does the same

Layers are taken in order, and later ones see the outputs of the compressed layers before them. Eigenvectors of
W G W^T are all that is needed, with G the Gram matrix of the inputs: no Cholesky factor (SVD-LLM, arXiv:2403.07378,
which is the same projection without the mean), no inverse, and fewer tokens than features do no harm.

References:
    Rethinking Compression: Reduced Order Modelling of Latent Features in Large Language Models, arXiv:2312.07046.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...validation import Flag, checked
from ..base import Description
from .base import OneShot
from .metric import Metric

if TYPE_CHECKING:
    from ...calibration.statistics import LayerStatistics, Statistic


@checked
class ROM(OneShot):
    """Principal outputs; needs texts, no labels and no gradients.

    Attributes:
        mean: let the bias take over the mean of what is dropped; a layer without bias gets one.
    """

    mean: Flag = True

    looks_at: ClassVar[frozenset[Statistic]] = frozenset({"gram"})
    description: ClassVar[Description] = Description(
        summary="outputs projected on their principal subspace",
        needs=("texts",),
        cost="minutes on a CPU: a few passes over texts",
        reference="LLM-ROM, arXiv:2312.07046; SVD-LLM, arXiv:2403.07378",
    )

    @property
    def compensates(self) -> bool:
        """Whether the bias takes over the mean of what is dropped."""
        return self.mean

    def metric(self, statistics: LayerStatistics) -> Metric:
        """Return the inputs' covariance, or their second moment where the bias takes over nothing; (in, in)."""
        assert statistics.inputs is not None, "the driver collects what a method asks for"
        return Metric(inputs=statistics.inputs.second_moment(centred=self.mean))
