"""A language model as a module that takes and returns what it keeps of earlier tokens.

One graph serves a prompt and every token after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor

from losparse.models.cache import cache_layers, filled_cache, takes_positions
from losparse.models.signature import signature_of
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import BATCH, MASK, POSITIONS, SEQUENCE, TOKENS, TOTAL, TensorSpec

from .task_model import TaskModel

_T = TypeVar("_T")
_STATES = "states"


class CausalModel(TaskModel):
    """A transformers model with a head for the next token, and its cache as inputs and outputs.

    Args: as those of `TaskModel`.
    """

    @cached_property
    def signature(self) -> Signature:
        """What the model takes, states included."""
        plain = signature_of(self.model, self.task, longest=self.longest)
        layers = cache_layers(self.model)
        states = [each for number, layer in enumerate(layers) for each in layer.specs(number)]
        names = [POSITIONS] if takes_positions(self.model) else []
        inputs = (
            TensorSpec(TOKENS, "int64", (BATCH, SEQUENCE)),
            TensorSpec(MASK, "int64", (BATCH, TOTAL)),
            *(TensorSpec(name, "int64", (BATCH, SEQUENCE)) for name in names),
            *(past for past, _, _ in states),
        )
        logits = TensorSpec(self.task.outputs[0], "float32", (BATCH, SEQUENCE, plain.vocabulary.size or 1))
        outputs = (logits, *(present for _, present, _ in states))
        kept = tuple(state for _, _, state in states)
        return Signature(inputs, outputs, kept, plain.vocabulary, plain.longest)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it returns, in order."""
        return tuple(spec.name for spec in self.signature.outputs)

    def arguments(self, values: Mapping[str, _T]) -> dict[str, Any]:
        """Group the states, which `forward` takes together."""
        pasts = {state.past for state in self.signature.states}
        own = {name: value for name, value in values.items() if name not in pasts}
        return {**own, _STATES: {name: value for name, value in values.items() if name in pasts}}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        states: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Run the model.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: 1 at tokens, 0 at padding; int64 (batch, past+sequence).
            position_ids: int64 (batch, sequence).
            states: by name of a past; (batch, heads, past, width) each.

        Returns:
            Logits (batch, sequence, vocabulary), and keys and values of all tokens.
        """
        kept = list((states or {}).values())
        cache = filled_cache(list(zip(kept[::2], kept[1::2], strict=True)))
        inputs = {TOKENS: input_ids, MASK: attention_mask}
        if position_ids is not None:
            inputs[POSITIONS] = position_ids
        result = self.model(**inputs, past_key_values=cache, use_cache=True, return_dict=True)
        layers = result.past_key_values.layers
        logits = (result[name] for name in self.task.outputs)
        return (*logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))
