"""The signature of a transformers model of texts: which token inputs it really reads, and the ids they may hold."""

from __future__ import annotations

import inspect
from typing import Any

from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.task import Task
from losparse_runtime.contract.tensors import (
    BATCH,
    MASK,
    SEQUENCE,
    TOKENS,
    TYPES,
    TensorSpec,
    Vocabulary,
)

_DTYPE = "int64"
# CANINE has no vocabulary, it takes code points: random texts are of ASCII.
_CODE_POINTS = 128


def signature_of(model: Any, task: Task | None = None, *, longest: int | None = None) -> Signature:
    """Tell what a model takes.

    Types count where the forward pass takes them and the model has more than one to tell apart: BERT and ELECTRA, but
    not RoBERTa (one type), DistilBERT, MPNet (no such argument) or DeBERTa-v2 with `type_vocab_size: 0`. What the
    tokenizer returns does not count: some return them for models that ignore them.

    Args:
        model: a transformers model.
        task: what it is for; None where no head looks for the end of a text.
        longest: tokens that a text may have.

    Returns:
        The signature, each input int64 (batch, sequence). What comes out has names and axes once it is traced.
    """
    names = [TOKENS, MASK]
    if TYPES in inspect.signature(model.forward).parameters and (_count(model.config, "type_vocab_size") or 0) > 1:
        names.append(TYPES)
    inputs = tuple(TensorSpec(name, _DTYPE, (BATCH, SEQUENCE)) for name in names)
    return Signature(inputs, vocabulary=vocabulary_of(model.config, task), longest=longest)


def vocabulary_of(config: Any, task: Task | None = None) -> Vocabulary:
    """Tell which ids a model takes.

    Args:
        config: of a transformers model.
        task: what it is for; an encoder-decoder that says one thing of a whole text looks for the end of it.
    """
    size, end = _count(config, "vocab_size"), getattr(config, "eos_token_id", None)
    of_texts = task is not None and task.scores_texts
    looks_for_end = of_texts and getattr(config, "is_encoder_decoder", False) and isinstance(end, int)
    return Vocabulary(
        size=size,
        types=_count(config, "type_vocab_size"),
        padding=padding_token(config),
        end=end if looks_for_end else None,
        drawn=_CODE_POINTS if size is None else None,
    )


def padding_token(config: Any) -> int | None:
    """Return the id of the token that pads by a model's configuration; the first LLaMAs write -1 where none does."""
    padding = getattr(config, "pad_token_id", None)
    return padding if isinstance(padding, int) and padding >= 0 else None


def _count(config: Any, name: str) -> int | None:
    """Return the size of a table; None where there is none, which some configurations write as 0."""
    return int(getattr(config, name, None) or 0) or None
