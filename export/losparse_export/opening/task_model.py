"""The task a model is exported for, and the model as a module that returns the task's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from losparse.errors import LosparseError
from losparse.models.positions import count_positions, text_limit
from losparse.models.signature import signature_of
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.task import TASK_FIELD, TASKS, Task, find_task, meant_task
from losparse_runtime.contract.tensors import MASK, TOKENS, TYPES

from .copies import private_copy

_T = TypeVar("_T")


def choose_task(
    name: str | None,
    architecture: str | None,
    source: str,
    problem: str | None = None,
    outputs: int | None = None,
    *,
    named: str | None = None,
) -> Task:
    """Find the task of a model.

    Args:
        name: the task asked for; None to read it off the model.
        architecture: class name of the model, as config.json has it.
        source: what to call the model in messages.
        problem: `problem_type` of its configuration; None where that does not say.
        outputs: rows of its head; None where nobody knows.
        named: the task that its configuration names (`TASK_FIELD`); None where it names none.

    Raises:
        LosparseError: there is no such task, the model does not say which, or its configuration says another one.
    """
    known = ", ".join(task.name for task in TASKS.values())
    if name is not None and name not in TASKS:
        raise LosparseError(f"task must be one of {known}, got {name!r}")
    if name is None and named is not None and named not in TASKS:
        raise LosparseError(
            f"{source}: {TASK_FIELD} must be one of {known}, got {named!r}; name one with task= (--task)"
        )
    task = find_task(architecture, problem, outputs, named=named) if name is None else TASKS[name]
    if task is None:
        raise LosparseError(
            f"{source}: architecture {architecture!r} does not say the task; name one of {known} with task= (--task)"
        )
    task = meant_task(task, problem, outputs)
    said = next((each for each in TASKS.values() if each.problem is not None and each.problem == problem), task)
    if task.problem is not None and said.problem != task.problem:
        raise LosparseError(
            f"{source}: config.json says problem_type {problem!r}, so task must be {said.name!r}, got {task.name!r}; "
            "leave task= (--task) out, or mend problem_type"
        )
    return task


class TaskModel(nn.Module):
    """A transformers model that returns the tensors of its task, in order; in evaluation mode.

    The trace and the reference of the parity check are both this module, so both see the same model.

    Args:
        model: a transformers model.
        task: what it is for.
        tokenizer_limit: tokens of a text that its tokenizer allows, for a model without positions of its own.
    """

    def __init__(self, model: PreTrainedModel, task: Task, tokenizer_limit: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.longest = count_positions(model) or text_limit(model, tokenizer_limit)
        # On the outermost module: the exporter sets the training flag of everything below from it.
        self.eval()

    @cached_property
    def signature(self) -> Signature:
        """What the model takes."""
        return signature_of(self.model, self.task, longest=self.longest)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it returns, in order."""
        return self.task.outputs

    def arguments(self, values: Mapping[str, _T]) -> dict[str, Any]:
        """Group what belongs to the inputs of the signature, as `forward` takes it."""
        return dict(values)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run the model; all inputs int64 (batch, sequence). torch calls the inputs of a program by these names."""
        inputs = {TOKENS: input_ids, MASK: attention_mask}
        if token_type_ids is not None:
            inputs[TYPES] = token_type_ids
        result = self.model(**inputs, return_dict=True)
        return tuple(result[name] for name in self.task.outputs)

    @torch.no_grad()
    def reference(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name, as the model gives them in evaluation mode on the first inputs it ever sees.

        Each time a copy is run: some models keep what they chose for one length - an attention, rotary frequencies -
        for all that follow.
        """
        return dict(zip(self.outputs, private_copy(self).eval()(**self.arguments(inputs)), strict=True))
