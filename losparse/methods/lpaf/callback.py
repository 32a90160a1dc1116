"""The callback that prunes, factors and mixes ranks while any Hugging Face Trainer trains; see `algorithm`.

    on_train_begin         lay out the stages over the steps the Trainer really has
    on_step_begin          draw which matrix every layer uses, once for all batches of the step
    on_pre_optimizer_step  score; and take the gradients of what did not take part away
    on_optimizer_step      mask; at the boundary: factor

A parameter without a gradient is left alone by the optimizer: neither weight decay nor momentum moves it. Its state
lives in buffers of the layers and in the Trainer's count of steps, so every checkpoint resumes exactly.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch.distributed as dist
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import LosparseError
from ..losparse.algorithm import CubicSchedule
from ..trainer import layers_to_prune, log_kept_share, refuse_unsupported, whole_gradients
from .algorithm import Stages, accumulate_score, draw_high_rank, factor, prune
from .layer import MixedRankLinear
from .score import Score

logger = logging.getLogger(__name__)


class Settings(Protocol):
    """What the callback reads of a method, `LPAF`."""

    @property
    def window(self) -> int:
        """Optimizer steps between two masking steps of the ramp."""

    @property
    def score(self) -> Score:
        """What is added up over the steps."""

    @property
    def target_density(self) -> float:
        """Share of every layer's weights that survive stage 1."""

    def schedule(self, total_steps: int) -> Stages:
        """Return the stages of a training of `total_steps` optimizer steps."""


class LPAFCallback(TrainerCallback):  # type: ignore[misc]
    """Takes the layers that `compress_(model, LPAF(...))` put into the model through their three stages."""

    def __init__(self, method: Settings) -> None:
        """Remember the method; the layers are found when training begins."""
        self.method = method
        self.layers: dict[str, MixedRankLinear] = {}
        self.stages = Stages(CubicSchedule(initial=0, final=0, total=1), mixed=2, total=3, mixed_start=0.0)
        self.high_rank: list[bool] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the layers and lay out the stages.

        Raises:
            LosparseError: no layer in training form, a stage without a step, a Trainer setting under which gradients
                are not whole at the optimizer step, or layers that are in another stage than the Trainer.
        """
        refuse_unsupported(args)
        self.layers = layers_to_prune(kwargs["model"], MixedRankLinear)
        self.stages = self.method.schedule(state.max_steps)
        expected = state.global_step >= self.stages.boundary
        for name, layer in self.layers.items():
            if bool(layer.factored) != expected:
                raise LosparseError(
                    f"layer {name!r} is {'' if layer.factored else 'not '}factored at step {state.global_step}, which "
                    f"happens at step {self.stages.boundary} of {self.stages.total}; resume with the method and the "
                    "steps that training began with, or start from the dense model"
                )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw which matrix every layer uses in this step."""
        step = state.global_step + 1  # the Trainer counts the step only when it is over
        probability = self.stages.high_rank_probability(step)
        self.high_rank = draw_high_rank(probability, len(self.layers), seed=args.seed, step=step)
        for layer, high_rank in zip(self.layers.values(), self.high_rank, strict=True):
            layer.high_rank.fill_(high_rank)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add this step's movement to the scores, and leave gradients only to what is trained in this step.

        Raises:
            LosparseError: a layer got no gradient.
        """
        pruning = state.global_step < self.stages.boundary
        if pruning and not self.stages.pruning.is_final(state.global_step):
            self._score(kwargs.get("optimizer"))
        for layer, high_rank in zip(self.layers.values(), self.high_rank, strict=True):
            if high_rank:
                layer.u.grad = layer.v.grad = None
            if not pruning:
                layer.sparse.grad = None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mask as the schedule says for this step, and factor when it is the last one of stage 1."""
        step, schedule = state.global_step + 1, self.stages.pruning
        if not schedule.initial < step <= self.stages.boundary:
            return
        in_ramp = not schedule.is_final(step - 1)
        if in_ramp and (step % self.method.window == 0 or schedule.is_final(step)):
            share = schedule.kept_share(step, self.method.target_density)
            for layer in self.layers.values():
                prune(layer, share)
        else:
            for layer in self.layers.values():
                layer.apply_mask()
        if step == self.stages.boundary:
            self._factor(kwargs.get("optimizer"))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say in the Trainer's log which share of the weights the schedule keeps, until the layers are factored."""
        if self.layers and state.global_step <= self.stages.boundary:
            log_kept_share(state, self.stages.pruning.kept_share(state.global_step, self.method.target_density))

    def _score(self, optimizer: Optimizer | None) -> None:
        gradients = whole_gradients(self.layers, optimizer)
        if gradients is not None:
            for layer, gradient in zip(self.layers.values(), gradients, strict=True):
                accumulate_score(layer, gradient, self.method.score)

    def _factor(self, optimizer: Optimizer | None) -> None:
        """Fill all factors, the same on all ranks, and let the optimizer begin anew with them."""
        moments = getattr(optimizer, "state", {})
        for layer in self.layers.values():
            factor(layer)
            for parameter in (layer.u, layer.v):
                if dist.is_available() and dist.is_initialized():  # an SVD may differ between machines, even in signs
                    dist.broadcast(parameter.data, src=0)
            for parameter in (layer.u, layer.v, layer.sparse):
                moments.pop(parameter, None)
        logger.info("%d layers factored at step %d of %d", len(self.layers), self.stages.boundary, self.stages.total)
