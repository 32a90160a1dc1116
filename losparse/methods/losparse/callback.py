"""The callback that prunes while any Hugging Face Trainer trains.

    on_train_begin         build the schedule from the number of steps the Trainer really has
    on_pre_optimizer_step  score: gradients are whole here - accumulated, reduced over ranks, clipped, unscaled
    on_optimizer_step      mask: after the step, or Adam's moments would revive what was dropped

Its state - scores, windows, masks - lives in buffers of the layers. Every checkpoint of the model holds it and a
resumed training reads it back with the weights. All ranks see the same gradients, so all take the same masks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PretrainedConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..trainer import layers_to_prune, log_kept_share, refuse_unsupported, whole_gradients
from .algorithm import CubicSchedule, accumulate_sensitivity, close_window, update_masks
from .coupling import AnyFamily
from .heads import Attention
from .layer import FactoredLinearTraining

logger = logging.getLogger(__name__)


class Settings(Protocol):
    """What the callback reads of a method, `LoSparse`."""

    @property
    def window(self) -> int:
        """Optimizer steps over which sensitivity is averaged, and between two masking steps of the ramp."""

    @property
    def beta(self) -> float:
        """Memory of the sensitivity average, per window."""

    @property
    def uncertainty_beta(self) -> float | None:
        """Memory of the uncertainty average, per window; None leaves the term out."""

    def schedule(self, total_steps: int) -> CubicSchedule:
        """Return the schedule of a training of `total_steps` optimizer steps."""

    def families(
        self, layers: Mapping[str, FactoredLinearTraining], config: PretrainedConfig | None = None
    ) -> list[AnyFamily]:
        """Return which layers decide together what they keep."""

    def sparse_budget(self, layers: Sequence[FactoredLinearTraining]) -> int:
        """Return how many residual parameters fit into the budget."""


class LoSparseCallback(TrainerCallback):  # type: ignore[misc]
    """Scores and prunes the layers that `compress_(model, method)` put into the model."""

    def __init__(self, method: Settings) -> None:
        """Remember the method; the layers are found when training begins."""
        self.method = method
        self.layers: dict[str, FactoredLinearTraining] = {}
        self.schedule = CubicSchedule(initial=0, final=0, total=1)
        self.families: list[AnyFamily] = []
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
            for family in self.families:
                if isinstance(family, Attention):
                    kept = {name: self.layers[name].mask for name in family.layers}
                    logger.info("%s: %s", family.layers[0].rpartition(".")[0], family.said(kept))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave no trace of dropped groups in the weights."""
        for layer in self.layers.values():
            layer.apply_mask()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say in the Trainer's log which share of the residual the schedule keeps."""
        if self.layers:
            log_kept_share(state, self._elements_to_keep(state.global_step) / self._elements)

    @property
    def _elements(self) -> int:
        total: int = sum(layer.sparse.numel() for layer in self.layers.values())
        return total

    def _elements_to_keep(self, step: int) -> int:
        return round(self.schedule.kept_share(step, self.budget / self._elements) * self._elements)

    @torch.no_grad()
    def _forget_momentum(self, optimizer: Optimizer | None) -> None:
        """Zero the optimizer's moments of dropped groups: they would only fight the mask from here on."""
        state = getattr(optimizer, "state", {})
        for parameter, dropped in (found for layer in self.layers.values() for found in layer.dropped()):
            for value in state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(dropped, 0.0)
