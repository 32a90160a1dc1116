"""The callback that prunes while any Hugging Face Trainer trains.

    on_train_begin         build the schedule from the number of steps the Trainer really has
    on_pre_optimizer_step  score: gradients are whole here - accumulated, reduced over ranks, clipped, unscaled
    on_optimizer_step      mask: after the step, or Adam's moments would revive what was dropped

Its state - scores, windows, masks - lives in buffers of the layers. Every checkpoint of the model holds it and a
resumed training reads it back with the weights. All ranks see the same gradients, so all take the same masks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...compress import training_layers
from ...errors import LosparseError
from ...layers.factored import TrainingForm
from .coupling import Family
from .layer import FactoredLinearTraining
from .method import CubicSchedule, LoSparse, accumulate_sensitivity, close_window, update_masks

logger = logging.getLogger(__name__)

Form = TypeVar("Form", bound=TrainingForm)


class LoSparseCallback(TrainerCallback):  # type: ignore[misc]
    """Scores and prunes the layers that `compress_(model, method)` put into the model."""

    def __init__(self, method: LoSparse) -> None:
        """Remember the method; the layers are found when training begins."""
        self.method = method
        self.layers: dict[str, FactoredLinearTraining] = {}
        self.schedule = CubicSchedule(initial=0, final=0, total=1)
        self.families: list[Family] = []
        self.budget = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the layers and fix the schedule.

        Raises:
            LosparseError: no layer in training form, a schedule longer than training, or a Trainer setting under
                which gradients are not whole at the optimizer step.
        """
        refuse_unsupported(args)
        self.layers = layers_to_prune(kwargs["model"], FactoredLinearTraining)
        self.schedule = self.method.schedule(state.max_steps)
        self.families = self.method.families(self.layers, getattr(kwargs["model"], "config", None))
        self.budget = self.method.sparse_budget(list(self.layers.values()))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add this step's sensitivity to the open window.

        Raises:
            LosparseError: a layer got no gradient.
        """
        if self.schedule.is_final(state.global_step):
            return
        gradients = whole_gradients(self.layers, kwargs.get("optimizer"))
        if gradients is None:
            return
        for layer, gradient in zip(self.layers.values(), gradients, strict=True):
            accumulate_sensitivity(layer, gradient)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the window and mask, as the schedule says for this step."""
        step = state.global_step + 1  # the Trainer counts the step only after this hook
        layers = list(self.layers.values())
        already_final = self.schedule.is_final(step - 1)
        if already_final:
            for layer in layers:
                layer.apply_mask()
            return
        entering_final = self.schedule.is_final(step)
        if step % self.method.window == 0 or entering_final:
            for layer in layers:
                close_window(layer, self.method.beta, self.method.uncertainty_beta)
            if step > self.schedule.initial:
                update_masks(self.layers, self.families, self._elements_to_keep(step))
        if entering_final:
            self._forget_momentum(kwargs.get("optimizer"))
            logger.info("masks fixed at step %d of %d", step, self.schedule.total)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave no trace of dropped groups in the weights."""
        for layer in self.layers.values():
            layer.apply_mask()

    def _elements_to_keep(self, step: int) -> int:
        total: int = sum(layer.sparse.numel() for layer in self.layers.values())
        return round(self.schedule.kept_share(step, self.budget / total) * total)

    @torch.no_grad()
    def _forget_momentum(self, optimizer: Any) -> None:
        """Zero the optimizer's moments of dropped groups: they would only fight the mask from here on."""
        state = getattr(optimizer, "state", {})
        for layer in self.layers.values():
            dropped = ~layer.mask
            where = dropped[:, None] if layer.axis == "out" else dropped[None, :]
            for value in state.get(layer.sparse, {}).values():
                if isinstance(value, Tensor) and value.shape == layer.sparse.shape:
                    value.masked_fill_(where, 0.0)


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


def whole_gradients(layers: Mapping[str, TrainingForm], optimizer: Any) -> list[Tensor] | None:
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


def _unscale(optimizer: Any) -> None:
    """Take the fp16 loss scale out of the gradients, unless the Trainer did so when it clipped or took their norm."""
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None:
        return
    try:
        scaler.unscale_(optimizer.optimizer)
    except RuntimeError as error:
        if "unscale_()" not in str(error):  # how it refuses a second time
            raise


def freeze_embeddings(model: nn.Module) -> int:
    """Stop the gradients of the embedding tables outside the blocks, and of an encoder's norms beside them.

    A head that is tied to the table stays as it is with it.

    Returns:
        The number of parameters frozen.
    """
    tables = {
        f"{name}.weight"
        for name, module in model.named_modules()
        # T5 has a table of distances within a block, which is no embedding; blocks are numbered
        if isinstance(module, nn.Embedding) and not any(part.isdigit() for part in name.split("."))
    }
    frozen = 0
    for name, parameter in model.named_parameters():
        if name in tables or "embeddings" in name.split("."):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen
