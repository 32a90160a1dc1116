"""What a dtype can hold of a compressed model: in fp16, numbers above 65504 become infinite and small ones vanish."""

from __future__ import annotations

import logging
from typing import TypeVar

import torch
from torch import nn

from ..errors import LosparseError
from .embedding import CompactTable
from .factored import FactoredLinear
from .pivots import MAX_ERROR

logger = logging.getLogger(__name__)

Layer = TypeVar("Layer", bound=nn.Module)

_INT8_STEPS = 256
"""A scale may be off by one part in so many: less than rounding its row to 8 bits costs."""


def finite(name: str, layer: Layer) -> Layer:
    """Return a new layer if all its numbers are finite, in the dtype that it was rounded to.

    Raises:
        LosparseError: a number is beyond the range of the dtype.
    """
    for key, parameter in layer.named_parameters():
        if not torch.isfinite(parameter).all():
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise LosparseError(
                f"{key} of {name!r} must have finite numbers, got some beyond the range of {dtype}; compress the model "
                "in float32 (model.float())"
            )
    return layer


def cast_(model: nn.Module, dtype: torch.dtype) -> bool:
    """Cast a compressed model, in place, if the dtype can hold it.

    Args:
        model: in fp32.
        dtype: fp16 or bf16.

    Returns:
        Whether it was cast; the reason why not is logged.
    """
    for name, module in model.named_modules():
        reason = _unfit(module, dtype)
        if reason is not None:
            kind = str(dtype).removeprefix("torch.")
            logger.warning("the weights stay in float32: %r cannot be held in %s: %s", name, kind, reason)
            return False
    model.to(dtype)
    return True


@torch.no_grad()
def _unfit(module: nn.Module, dtype: torch.dtype) -> str | None:
    """Say why a dtype cannot hold what a module itself stores, or None."""
    for key, parameter in module.named_parameters(recurse=False):
        if not torch.isfinite(parameter.to(dtype)).all():
            return f"{key} would have infinite numbers"
    if isinstance(module, CompactTable) and module.scale is not None:
        lost = (module.scale.to(dtype).float() - module.scale).abs() > module.scale / _INT8_STEPS
        return "scales of its rows would be lost" if bool(lost.any()) else None
    factors = module.factors() if isinstance(module, FactoredLinear) else None
    if factors is None:
        return None
    u, v = (factor.double() for factor in factors)
    exact, rounded = u @ v, u.to(dtype).double() @ v.to(dtype).double()
    norm = max(float(torch.linalg.matrix_norm(exact)), torch.finfo(torch.float64).tiny)
    error = float(torch.linalg.matrix_norm(rounded - exact)) / norm
    allowed = MAX_ERROR * torch.finfo(dtype).eps  # rounding gives below one eps; more means that small numbers are lost
    return None if error <= allowed else f"u v would have a relative error of {error:.1e}, allowed are {allowed:.1e}"
