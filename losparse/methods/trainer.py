"""What the callbacks of trained methods need of a Trainer: layers that have gradients, and gradients that are whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import LosparseError
from ..layers.training import TrainingForm, training_layers

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

Form = TypeVar("Form", bound=TrainingForm)


def layers_to_prune(model: nn.Module, kind: type[Form]) -> dict[str, Form]:
    """Return the layers of one training form by qualified name, in the model's order.

    Raises:
        LosparseError: there is none, or one is frozen.
    """
    layers = {name: layer for name, layer in training_layers(model).items() if isinstance(layer, kind)}
    if not layers:
        raise LosparseError("the model has no layer to prune; call compress_(model, method) before training")
    frozen = [name for name, layer in layers.items() if not layer.sparse.requires_grad]
    if frozen:
        raise LosparseError(f"layer {frozen[0]!r} is frozen, so it has no sensitivity; unfreeze it or ignore= it")
    return layers


def whole_gradients(layers: Mapping[str, TrainingForm], optimizer: Optimizer | None) -> list[Tensor] | None:
    """Return the gradients of the layers' `sparse` before the optimizer step, without the fp16 loss scale.

    Args:
        layers: in training form, by qualified name.
        optimizer: accelerate's, whose loss scaler has not stepped yet; one without a scaler has nothing to undo.

    Returns:
        One per layer, (out, in) each; None when one overflowed: the optimizer skips that step, and scores must too.

    Raises:
        LosparseError: a layer got no gradient.
    """
    _unscale(optimizer)
    gradients = []
    for name, layer in layers.items():
        if layer.sparse.grad is None:
            raise LosparseError(f"layer {name!r} got no gradient in this step; is it unused? leave it out with ignore=")
        gradients.append(layer.sparse.grad)
    return gradients if all(bool(torch.isfinite(gradient.sum())) for gradient in gradients) else None


def refuse_unsupported(args: TrainingArguments) -> None:
    """Refuse Trainer settings under which layers would be pruned by wrong scores.

    Raises:
        LosparseError: DeepSpeed, FSDP, or load_best_model_at_end.
    """
    if getattr(args, "deepspeed", None):
        raise LosparseError("DeepSpeed steps inside backward, so sensitivity cannot be read; train with DDP instead")
    if getattr(args, "fsdp", None):
        raise LosparseError("FSDP shards the weights, which is not supported; train with DDP instead")
    if args.load_best_model_at_end:
        raise LosparseError(
            "load_best_model_at_end may bring back a checkpoint from before pruning ended; set it to False"
        )


def _unscale(optimizer: Optimizer | None) -> None:
    """Take the fp16 loss scale out of the gradients, unless the Trainer did so when it clipped or took their norm."""
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None:
        return
    inner: Optimizer = getattr(optimizer, "optimizer")  # noqa: B009 (accelerate's, which has no types)
    try:
        scaler.unscale_(inner)
    except RuntimeError as error:
        if "unscale_()" not in str(error):  # how it refuses a second time
            raise


def log_kept_share(state: TrainerState, share: float) -> None:
    """Add to the newest row of a Trainer's log what the schedule keeps; checkpoints hold the log, so resuming keeps it.

    Args:
        state: of the Trainer.
        share: of the weights that are pruned, 0 to 1.
    """
    if state.log_history and "loss" in state.log_history[-1]:
        state.log_history[-1]["kept_share"] = share
