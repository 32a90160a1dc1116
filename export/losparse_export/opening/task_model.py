"""The tasks a model can be exported for, and what the model of each takes and returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from losparse.errors import LosparseError
from losparse.models.positions import count_positions, text_limit
from losparse.saving.opening import padding_token

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
    def end_token(self) -> int | None:
        """The token that ends every row once, where the head reads its place: encoder-decoders that classify."""
        config = self.model.config
        reads = self.task.name == "text-classification" and getattr(config, "is_encoder_decoder", False)
        return config.eos_token_id if reads and isinstance(config.eos_token_id, int) else None

    def end_rows_(self, ids: Any, lengths: Sequence[int]) -> None:
        """Put the end token, if the head reads one, at the end of every row and nowhere else.

        Args:
            ids: token ids (batch, sequence), an array or a tensor; changed in place.
            lengths: tokens of each row that are no padding.
        """
        end = self.end_token
        if end is None:
            return
        taken = {end, padding_token(self.model.config)}
        ids[ids == end] = next(token for token in range(len(taken) + 1) if token not in taken)
        for row, length in enumerate(lengths):
            ids[row, length - 1] = end

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run the model; all inputs int64 (batch, sequence)."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        result = self.model(**inputs, return_dict=True)
        return tuple(result[name] for name in self.task.outputs)

    @torch.no_grad()
    def reference(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name, as the model gives them in evaluation mode on the first inputs it ever sees.

        Each time a copy is run: some models keep what they chose for one length - an attention, rotary frequencies -
        for all that follow.
        """
        return dict(zip(self.task.outputs, private_copy(self).eval()(**inputs), strict=True))


def input_names(model: Any) -> tuple[str, ...]:
    """Tell which token inputs a model really reads.

    `token_type_ids` counts where the forward pass takes it and the model has more than one type to tell apart: BERT
    and ELECTRA, but not RoBERTa (one type), DistilBERT, MPNet (no such argument) or DeBERTa-v2 with
    `type_vocab_size: 0`. What the tokenizer returns does not count: some return it for models that ignore it.
    """
    names = ["input_ids", "attention_mask"]
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    if takes_types and (getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        names.append("token_type_ids")
    return tuple(names)


def vocabulary_size(model: Any) -> int:
    """Return how many token ids a model takes; CANINE has no vocabulary, it takes code points, ASCII among them."""
    return int(getattr(model.config, "vocab_size", None) or 128)
