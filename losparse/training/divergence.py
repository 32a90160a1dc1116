"""A training that diverged: found where it happens, before NaN reaches a checkpoint or a report.

Where it is looked for: a step whose loss and gradients are not finite is not taken, weights that are not finite are
never written, so no resumed training goes on from them, and `require_finite` looks once more after training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from ..errors import LosparseError
from ..saving.staging import said_of_full_disks


def diverged(what: str) -> LosparseError:
    """Return the error that says so; `what` is what was seen of it."""
    return LosparseError(f"training diverged: {what}; lower learning_rate, or raise warmup_share")


def require_finite(model: nn.Module, step: int) -> None:
    """Refuse a model that training has ruined.

    Args:
        model: any model.
        step: optimizer steps it was trained for, for the message.

    Raises:
        LosparseError: a parameter holds NaN or infinity.
    """
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            raise diverged(f"'{name}' holds NaN or infinity after step {step}")


class DivergenceMixin(Trainer):  # type: ignore[misc]
    """What a Trainer class inherits first, to stop where training diverges."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Go forward and backward on one batch.

        A batch without any label has no finite loss either, but its gradients are zero and do no harm.

        Raises:
            LosparseError: the loss is not finite, and neither is a gradient.
        """
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not _is_finite(loss):
            gradients = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
            if not all(_is_finite(gradient) for gradient in gradients):
                raise diverged(f"the loss is {loss.item():g} at step {self.state.global_step + 1}")
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model if it is sound.

        Raises:
            LosparseError: see `require_finite`; or the disk takes no more.
        """
        require_finite(self.model, self.state.global_step)
        with said_of_full_disks(Path(output_dir or self.args.output_dir)):
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write what a training goes on from.

        Raises:
            LosparseError: the disk takes no more.
        """
        with said_of_full_disks(Path(output_dir)):
            super()._save_optimizer_and_scheduler(output_dir)


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
