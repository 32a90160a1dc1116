r"""One solver for all factorisers: the low-rank part that is best in the metric of the method.

    min over rank r of || L (W - u v) R ||_F          L says which outputs matter, R which inputs occur

With U the leading left singular vectors of L W R, the answer is u = L^-1 U, v = U^T L W: a projection of the outputs
(LLM-ROM), whatever R is. R is never inverted, and a singular R does no harm; only R R^T is needed, never R itself.

    method                    L                         R R^T
    SVD                       1                         1
    FWSVD                     1                         diag of squared gradients, summed over outputs
    ASVD                      1                         diag of (mean |x|)^(2 alpha)
    AWSVD (LoRAP), OATS       1                         diag of mean x^2
    LLM-ROM, SVD-LLM, DRONE   1                         E[x^T x], or the covariance where the bias takes the mean
    one-shot LoSparse         diag of (E g^2)^1/2       the same
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import LosparseError
from .metric import Metric


@dataclass(frozen=True)
class Projection:
    """The principal outputs of a layer in a metric.

    Attributes:
        left: left singular vectors of L W R, the most important first; orthonormal, fp64 (out, n).
        energy: squared singular values, falling; fp64 (n,).
        level: diagonal of L; fp64 (out,), or None for 1.
    """

    left: Tensor
    energy: Tensor
    level: Tensor | None = None

    def factors(self, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """Return u (out, rank) and v (rank, in) in fp64, with equal norms in every component."""
        left, wide = self.left[:, :rank], weight.double()
        if self.level is None:
            return balance(left, left.T @ wide)
        return balance(left / self.level[:, None], (left * self.level[:, None]).T @ wide)

    def lost(self) -> Tensor:
        """Return the squared error at every rank 0..n; (n + 1,)."""
        tail = torch.flip(torch.cumsum(torch.flip(self.energy, [0]), 0), [0])
        return torch.cat([tail, tail.new_zeros(1)])

    def row_errors(self) -> Tensor:
        """Return what every output contributes to the squared error at every rank 0..n; (out, n + 1)."""
        share = self.left.square() * self.energy
        tail = torch.flip(torch.cumsum(torch.flip(share, [1]), 1), [1])
        return torch.cat([tail, tail.new_zeros(len(tail), 1)], dim=1)


def balance(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Scale every component so that its column of u and its row of v have the same norm; the product stays."""
    left, right = u.norm(dim=0), v.norm(dim=1)
    scale = torch.where((left > 0) & (right > 0), (right / left.clamp(min=1e-300)).sqrt(), torch.ones_like(left))
    return u * scale, v / scale[:, None]


def project(weight: Tensor, metric: Metric, name: str = "weight") -> Projection:
    """Find the principal outputs of a layer.

    Args:
        weight: (out, in).
        metric: see the class.
        name: of the layer, for the message.

    Raises:
        LosparseError: weight or metric hold a value that is not finite.

    References:
        LLM-ROM, arXiv:2312.07046, section 3 (eigenvectors of the outputs' covariance); SVD-LLM, arXiv:2403.07378,
        is the same without its Cholesky factor.
    """
    wide = weight.detach().double()
    level = None
    if metric.outputs is not None:
        # Outputs that the loss hardly sees still count a little: the estimate of a small number is poor.
        floor = _FLOOR * float(metric.outputs.mean()) + torch.finfo(torch.float64).tiny
        level = metric.outputs.double().clamp(min=floor).sqrt()
        wide = level[:, None] * wide
    for what, value in (("weight", wide), ("metric", metric.inputs)):
        # A sum is finite if every term is: fp64 has room, and a sum takes no memory.
        if value is not None and not torch.isfinite(value.sum()):
            raise LosparseError(f"the {what} of layer {name!r} holds NaN or infinity; mend the model or the data")
    left, energy = _principal(wide, None if metric.inputs is None else metric.inputs.double())
    return Projection(left=left, energy=energy, level=level)


_FLOOR = 1e-2


def _principal(weight: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the left singular vectors of W R and its squared singular values, largest first."""
    out_features, in_features = weight.shape
    if out_features <= in_features:
        weighed = weight if inputs is None else weight * inputs.clamp(min=0) if inputs.dim() == 1 else weight @ inputs
        values, vectors = torch.linalg.eigh(weighed @ weight.T)
        return vectors.flip(1), values.flip(0).clamp(min=0)
    # The small side is that of the inputs: its eigenvectors, carried over to the outputs, which are orthogonal already
    # but for rounding where nothing is left; QR mends that.
    product = weight
    if inputs is not None and inputs.dim() == 1:
        product = weight * inputs.clamp(min=0).sqrt()
    elif inputs is not None:
        values, vectors = torch.linalg.eigh(inputs)
        product = weight @ (vectors * values.clamp(min=0).sqrt())
    values, vectors = torch.linalg.eigh(product.T @ product)
    return torch.linalg.qr(product @ vectors.flip(1)).Q, values.flip(0).clamp(min=0)
