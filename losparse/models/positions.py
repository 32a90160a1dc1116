"""How long a text a model takes: the one count that training, export, estimates and exported folders go by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

NO_LIMIT = 512
"""Tokens of a text where neither the model nor its tokenizer has a limit."""

_UNLIMITED = 10**6
"""No text is so long; a tokenizer without a limit writes a number of thirty digits."""

# What models call their table of absolute positions, by the last part of its qualified name.
_TABLES = frozenset({"position_embeddings", "position_embedding", "embed_positions", "wpe"})
# What configurations call the number of positions, those of rotary and other computed positions included.
_SETTINGS = ("max_position_embeddings", "max_seq_len")


def count_positions(model: nn.Module) -> int | None:
    """Count the tokens a model has positions for.

    A table may keep rows for itself: RoBERTa, MPNet and I-BERT number the tokens from behind the padding row, BART and
    OPT from behind a fixed offset, Nystromformer from 2. Of several tables the smallest counts: an encoder-decoder with
    a classification head reads the text with both.

    Args:
        model: a transformers model.

    Returns:
        The count; None where positions are relative to each other without end (T5, Bloom, XLNet, Funnel).
    """
    return min([*_rows(model), *_settings(getattr(model, "config", None))], default=None)


def text_limit(model: nn.Module, tokenizer_limit: float | None = None) -> int:
    """Return how many tokens a text may have at most.

    Args:
        model: a transformers model.
        tokenizer_limit: the `model_max_length` of its tokenizer; None without one.

    Returns:
        The smaller of the two limits, or of the one that there is; `NO_LIMIT` where there is none.
    """
    known = [limit for limit in (count_positions(model), as_limit(tokenizer_limit)) if limit is not None]
    return min(known, default=NO_LIMIT)


def as_limit(number: object) -> int | None:
    """Read the `model_max_length` of a tokenizer; None where it says that there is no limit, or nothing."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < _UNLIMITED:
        return None
    return int(number)


def _rows(model: nn.Module) -> Iterator[int]:
    """Yield how many tokens each table of positions numbers."""
    for name, module in model.named_modules():
        parent, _, own = name.rpartition(".")
        weight = getattr(module, "weight", None)
        if own in _TABLES and isinstance(weight, Tensor) and weight.dim() == 2:
            yield weight.shape[0] - _first_row(module, model.get_submodule(parent))


def _first_row(table: nn.Module, parent: nn.Module) -> int:
    """Return the row of the first token."""
    padding, offset = getattr(table, "padding_idx", None), getattr(table, "offset", 0)
    numbers = getattr(parent, "position_ids", None)  # transformers keeps the rows of a text's tokens under this name
    first = int(numbers.min()) if isinstance(numbers, Tensor) and numbers.numel() and not numbers.is_meta else 0
    return max(first, offset if isinstance(offset, int) else 0, 0 if padding is None else int(padding) + 1)


def _settings(config: Any) -> Iterator[int]:
    for name in _SETTINGS:
        count = getattr(config, name, None)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:  # XLNet says -1
            yield count
