"""The tasks a model can be exported for, and what the model of each takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from losparse.errors import LosparseError
from losparse.models.positions import count_positions, text_limit
from losparse.models.signature import signature_of
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.task import TASKS as CONTRACT_TASKS
from losparse_runtime.contract.tensors import MASK, TOKENS, TYPES

from ..tracing.capture import private_copy


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in "text-classification".
        auto_class: the transformers class that opens a model of it.
        ending: of the architecture's class name, by which a model is recognised.
        outputs: fields of the model's output, which become the outputs of the graph.
        per_token: whether an output has one row a token: axes batch and sequence first.
    """

    name: str
    auto_class: str
    ending: str
    outputs: tuple[str, ...]
    per_token: bool


_ALL = (
    Task("text-classification", "AutoModelForSequenceClassification", "ForSequenceClassification", ("logits",), False),
    Task("token-classification", "AutoModelForTokenClassification", "ForTokenClassification", ("logits",), True),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        "ForQuestionAnswering",
        ("start_logits", "end_logits"),
        True,
    ),
    # Last: its ending is the shortest.
    Task("feature-extraction", "AutoModel", "Model", ("last_hidden_state",), True),
)
TASKS = {task.name: task for task in _ALL}

_CAUSAL = ("ForCausalLM", "LMHeadModel")


def choose_task(name: str | None, architecture: str | None, source: str) -> Task:
    """Find the task of a model.

    Args:
        name: the task asked for; None to read it off the architecture.
        architecture: class name of the model, as config.json has it.
        source: what to call the model in messages.

    Raises:
        LosparseError: there is no such task, or the architecture does not say which, or it is a causal model's.
    """
    if name == "causal-lm" or (name is None and architecture is not None and architecture.endswith(_CAUSAL)):
        raise LosparseError(
            f"{source}: causal language models are not exported yet; the tasks that are: {', '.join(TASKS)}"
        )
    if name is not None:
        if name not in TASKS:
            raise LosparseError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
        return TASKS[name]
    for task in TASKS.values():
        if architecture is not None and architecture.endswith(task.ending):
            return task
    raise LosparseError(
        f"{source}: architecture {architecture!r} does not say the task; name one of {', '.join(TASKS)} with task= "
        "(--task)"
    )


class TaskModel(nn.Module):
    """A transformers model that returns the tensors of its task, in order; in evaluation mode.

    The trace and the reference of the parity check are both this module, so both see the same model.

    Args:
        model: a transformers model.
        task: what it is for.
        tokenizer_limit: tokens of a text that its tokenizer allows, for a model without positions of its own.
    """

    def __init__(self, model: Any, task: Task, tokenizer_limit: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.longest = count_positions(model) or text_limit(model, tokenizer_limit)
        # On the outermost module: the exporter sets the training flag of everything below from it.
        self.eval()

    @property
    def signature(self) -> Signature:
        """What the model takes."""
        return signature_of(self.model, CONTRACT_TASKS[self.task.name], longest=self.longest)

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
        return dict(zip(self.task.outputs, private_copy(self).eval()(**inputs), strict=True))
