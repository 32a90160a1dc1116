"""Embedding tables as a recipe wants them: compact before training, so that the rest of the model adapts to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from losparse_runtime.contract.tensors import TOKENS

from ..compress_embeddings import compress_embeddings_
from ..data.tokens import Tokenized
from ..training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compact_embeddings(model: PreTrainedModel, recipe: Recipe, rows: Tokenized | None) -> None:
    """Make the tables of a model compact, in place, where a recipe says so.

    Args:
        model: before its layers are compressed.
        recipe: says how.
        rows: of texts, by whose words a lower rank is chosen; None where there are none.

    Raises:
        LosparseError: see `compress_embeddings_`.
    """
    if not recipe.compacts_embeddings:
        return
    counts = None
    if recipe.embedding_rank is not None and rows is not None:
        counts = count_tokens((rows[place] for place in range(len(rows))), model.get_input_embeddings().num_embeddings)
    compress_embeddings_(model, int8=recipe.embeddings == "int8", rank=recipe.embedding_rank, counts=counts)


def count_tokens(rows: Iterable[Mapping[str, Any]], size: int) -> Tensor:
    """Count how often each token occurs.

    Args:
        rows: tokenised texts.
        size: rows of the table; tokens beyond it count nowhere.

    Returns:
        Counts; int64 (size,).
    """
    found = Counter(chain.from_iterable(row[TOKENS] for row in rows))
    return torch.tensor([found[token] for token in range(size)])
