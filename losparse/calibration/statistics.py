"""What calibration knows of a layer: moments of its inputs, and squared gradients.

Everything is a plain sum over tokens or examples, so that it can be streamed, and is kept in double precision:
products of fp32 blocks are added up in fp64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import LosparseError

Statistic = Literal["gram", "square", "fisher", "sensitivity"]
"""What a method may ask for: the inputs' Gram matrix; their squares and absolute values; squared gradients of the
weight; squared gradients of the outputs."""

_BLOCK = 1024
"""Tokens whose products are summed in fp32 before they go to fp64."""

_PART = 512
"""Rows of a Gram matrix that are computed at a time: it is held once, in fp64, and hardly more."""


@dataclass
class InputMoments:
    """Sums over the tokens a layer has read.

    Attributes:
        tokens: how many.
        total: sum of x; fp64 (in,).
        square: sum of x^2; fp64 (in,).
        absolute: sum of |x|; fp64 (in,).
        gram: sum of x^T x, or None where it was not asked for; fp64 (in, in).
    """

    tokens: int
    total: Tensor
    square: Tensor
    absolute: Tensor
    gram: Tensor | None

    @classmethod
    def empty(cls, features: int, *, gram: bool) -> InputMoments:
        """Return the sums over no token."""
        zeros = torch.zeros(features, dtype=torch.float64)
        return cls(
            tokens=0,
            total=zeros,
            square=zeros.clone(),
            absolute=zeros.clone(),
            gram=torch.zeros(features, features, dtype=torch.float64) if gram else None,
        )

    def add(self, x: Tensor) -> None:
        """Add tokens; (tokens, in)."""
        for block in torch.split(x.detach(), _BLOCK):
            wide = block.to(torch.float32)
            self.tokens += len(wide)
            self.total += wide.sum(0).double().cpu()
            self.square += wide.square().sum(0).double().cpu()
            self.absolute += wide.abs().sum(0).double().cpu()
            if self.gram is not None:
                for rows, part in zip(torch.split(self.gram, _PART), torch.split(wide, _PART, dim=1), strict=True):
                    rows += (part.T @ wide).cpu()

    @property
    def mean(self) -> Tensor:
        """Mean input; fp64 (in,)."""
        return self.total / self.tokens

    def second_moment(self, *, centred: bool) -> Tensor:
        """Return E[x^T x], or the covariance if `centred`; fp64 (in, in).

        Raises:
            LosparseError: the Gram matrix was not collected.
        """
        if self.gram is None:
            raise LosparseError("the Gram matrix of the inputs was not collected; ask for the statistic 'gram'")
        moment = self.gram / self.tokens
        return moment.addr_(self.mean, self.mean, alpha=-1.0) if centred else moment

    def check(self, name: str) -> None:
        """Refuse moments that say nothing.

        Raises:
            LosparseError: no token, or a value that is not finite.
        """
        if not self.tokens:
            raise LosparseError(
                f"layer {name!r} read no token of the calibration data; give texts that are not empty and masked, or "
                "leave the layer out with ignore="
            )
        if not torch.isfinite(self.square).all():
            raise LosparseError(
                f"the inputs of layer {name!r} hold NaN or infinity on the calibration data; mend the model, or "
                "calibrate in fp32"
            )


@dataclass
class LayerStatistics:
    """All that was collected of one layer.

    Attributes:
        inputs: moments of its inputs, or None.
        examples: how many examples (or batches) the squared gradients are sums over.
        fisher_in: squared gradients of the weight, summed over examples and output neurons; fp64 (in,) or None.
        fisher_out: the same, summed over examples and input features; fp64 (out,) or None.
        sensitivity: sum over tokens of g^2, g the gradient of the log-likelihood by the layer's outputs; fp64 (out,)
            or None.
        tokens: how many tokens `sensitivity` is a sum over.
    """

    inputs: InputMoments | None = None
    examples: int = 0
    fisher_in: Tensor | None = None
    fisher_out: Tensor | None = None
    sensitivity: Tensor | None = None
    tokens: int = 0
