"""Trainers whose loss is a mean, and what a student learns from a teacher: its logits and its hidden states.

    loss = (1 - distill_weight) * task + distill_weight * T^2 KL(teacher || student) + distill_hidden * hidden

`hidden` is the mean over the student's blocks of the mean squared difference of two elements. A student of fewer
blocks learns from the teacher's blocks that close equal parts of it (`depth.even_layers`), so the last learns from
the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

from losparse_runtime.contract.task import Labels, Task
from losparse_runtime.contract.tensors import MASK

from ..calibration.heads import yes_or_no
from ..data.tokens import IGNORED
from ..errors import LosparseError
from ..models.depth import even_layers, find_blocks, recorded
from .recipe import Training

_PART = 2**24
"""Logits that are compared at a time, and again for their gradient: all at once may take gigabytes."""


class MeanLossTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is the mean of one batch, whatever the number of processes and accumulated batches.

    The Trainer hands models that accept it the number of items of all accumulated batches and then takes their loss
    for a sum over those items. Classifiers such as BERT's ignore it and return a mean, so their loss and gradients
    would grow with the number of processes and of accumulated batches, and clipping would cut them. Causal models do
    use it; without it they return the mean over the tokens of a batch, and all batches of a text have equally many.
    """

    loss_is_scaled_for_ga = False  # the Trainer divides it by the number of accumulated batches

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the model's own mean loss."""
        return super().compute_loss(model, inputs, return_outputs=return_outputs)


class DistillingTrainer(MeanLossTrainer):
    """A Trainer whose loss is a mixture of the task's and of imitating a teacher.

    References:
        Hinton et al., arXiv:1503.02531: KL at temperature T, times T^2 to keep the gradient's size. TinyBERT,
        arXiv:1909.10351, eq. 8: hidden states. LoSparse's distillation stage uses the sum over hidden states with
        weight 15, embeddings included; for 12 blocks that is about `distill_hidden` 180 here.
    """

    def __init__(self, *, teacher: nn.Module, recipe: Training, task: Task, **kwargs: Any) -> None:
        """Remember the teacher, which is put into evaluation mode and never trained.

        Raises:
            LosparseError: hidden states are to be imitated and the two models do not fit.
        """
        super().__init__(**kwargs)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.recipe = recipe
        self.task = task
        none: tuple[list[nn.Module], list[nn.Module]] = ([], [])
        self.blocks = pair_blocks(self.model, teacher) if recipe.distill_hidden > 0 else none

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mixture; in evaluation the task's loss alone."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        with recorded(self.blocks[0]) as student_states:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        with torch.no_grad(), recorded(self.blocks[1]) as teacher_states:
            feeds = {key: value for key, value in inputs.items() if "label" not in key}
            targets = self.teacher(**feeds, **({"use_cache": False} if self.task.causal else {}))
        weight = self.recipe.distill_weight
        if weight > 0:
            loss = (1.0 - weight) * loss + weight * self._imitation(outputs, targets, inputs.get("labels"))
        if self.recipe.distill_hidden > 0:
            if len(student_states) != len(teacher_states):
                raise LosparseError("hidden states need one process a GPU; start it with torchrun or accelerate launch")
            student, wanted = ([after for _, after in states] for states in (student_states, teacher_states))
            loss = loss + self.recipe.distill_hidden * hidden_loss(student, wanted, inputs.get(MASK))
        return (loss, outputs) if return_outputs else loss

    def _imitation(self, outputs: Any, targets: Any, labels: Tensor | None) -> Tensor:
        kind, temperature = self.task.labels, self.recipe.distill_temperature
        losses = [
            distillation_loss(outputs[name], targets[name], labels, temperature, kind) for name in self.task.outputs
        ]
        return torch.stack(losses).mean()


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float, kind: Labels, *, part: int = _PART
) -> Tensor:
    """Return T^2 * KL(teacher || student) of softened distributions, averaged over rows.

    Where any number of classes applies, each logit is a distribution of its own, yes or no, and the mean is over them
    too, as that of the task's loss. A number is no distribution: of it the mean squared difference is taken. Of a
    language model every token of a row is a row here, and memory does not grow with their number.

    Args:
        student: logits; (..., classes).
        teacher: logits; (..., classes).
        labels: rows labelled -100 are left out when it has one label per row; (...).
        temperature: T, above 0.
        kind: what the task's labels are.
        part: most logits that are compared at a time.

    Returns:
        In nats; ().
    """
    if kind == "number":
        return F.mse_loss(student.float(), teacher.float())
    if kind == "classes":
        student, teacher = yes_or_no(student), yes_or_no(teacher)
    if labels is not None and labels.dim() > 1 and labels.shape == student.shape[:-1]:
        counted = labels != IGNORED
        if not counted.all():  # or all logits would be copied
            student, teacher = student[counted], teacher[counted]
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    size = max(1, part // student.shape[-1])
    # `split`, since a slice's gradient would be as large as all rows, for every part.
    parts = zip(torch.split(student, size), torch.split(teacher, size), strict=True)
    losses = [checkpoint(_divergence, *part, temperature, use_reentrant=False) for part in parts]
    return torch.stack(losses).sum() / len(student) * temperature**2


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the sum over rows of KL(teacher || student) of softened distributions; ()."""
    return F.kl_div(
        F.log_softmax(student.float() / temperature, dim=-1),
        F.log_softmax(teacher.float() / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Return the mean over pairs of hidden states of their mean squared difference.

    Args:
        student: hidden states after each block; (batch, sequence, hidden).
        teacher: as many; (batch, sequence, hidden).
        mask: 0 at tokens to leave out; (batch, sequence), or None to take all.

    Returns:
        In squared units of the hidden states; ().
    """
    losses = []
    for one, other in zip(student, teacher, strict=True):
        squared = (one.float() - other.float()).square().mean(-1)  # (batch, sequence)
        losses.append(squared.mean() if mask is None else squared[mask.bool()].mean())
    return torch.stack(losses).mean()


def pair_blocks(student: nn.Module, teacher: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the student's blocks and the blocks of the teacher that they imitate, in order.

    Raises:
        LosparseError: the teacher has fewer blocks, or hidden states of another size.
    """
    mine, theirs = find_blocks(student)[1], find_blocks(teacher)[1]
    sizes = [model.config.hidden_size for model in (student, teacher)]  # type: ignore[union-attr]
    if sizes[0] != sizes[1]:
        raise LosparseError(f"distill_hidden needs a teacher with hidden states of {sizes[0]} elements, got {sizes[1]}")
    if len(mine) > len(theirs):
        raise LosparseError(f"distill_hidden needs a teacher of {len(mine)} blocks or more, got {len(theirs)}")
    return list(mine), [theirs[number] for number in even_layers(len(theirs), len(mine))]
