"""Tiny language models, and their tokens by PyTorch and by exported folders."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from losparse_runtime import Session
from losparse_runtime.contract.tensors import MASK, TOKENS

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_OTHERS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "GPTNeoXForCausalLM": _SIZES,
    "MistralForCausalLM": {**_GROUPED, "sliding_window": 5},
    "Gemma3ForCausalLM": {**_GROUPED, "head_dim": 8, "sliding_window": 5},
    "Qwen3ForCausalLM": {**_GROUPED, "head_dim": 8},
}


def causal_model(architecture: str = "LlamaForCausalLM", seed: int = 0, **changes: Any) -> Any:
    """Return a tiny model in evaluation mode."""
    kind = getattr(transformers, architecture)
    torch.manual_seed(seed)
    return kind(kind.config_class(**{**_OTHERS.get(architecture, _GROUPED), **changes})).eval()


def generated_by_torch(model: Any, prompt: list[int], count: int) -> list[int]:
    """Return the tokens that transformers' own loop makes of a prompt, the likeliest every time."""
    ids = torch.tensor([prompt])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return [int(token) for token in made[0, len(prompt) :]]


def generated_by_runs(session: Session, prompt: list[int], count: int) -> list[int]:
    """Return the tokens that single runs of a folder make, each with the states of the one before."""
    feeds: dict[str, NDArray[Any]] = {TOKENS: np.array([prompt])}
    made: list[int] = []
    for _ in range(count):
        outputs = session.run(feeds)
        made.append(int(outputs["logits"][0, -1].argmax()))
        tokens = np.array([[made[-1]]])
        mask = np.ones((1, len(prompt) + len(made)), np.int64)
        feeds = {TOKENS: tokens, MASK: mask, **session.signature.next_states(outputs)}
    return made
