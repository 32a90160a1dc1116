"""Compact embedding tables that cannot be, and folders of them that were damaged: refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from losparse import LosparseError, compress_embeddings_
from losparse.models.tables import compact_tables
from losparse.saving.folder import read_checkpoint, stored_tables

from .conftest import build_bert


class _Reads(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


def _shared_by_a_stranger() -> nn.Module:
    model = nn.Sequential()
    model.words = nn.Embedding(50, 16)
    model.other = _Reads(model.words.weight)
    return model


def _tied_by_hand() -> nn.Module:
    model = LlamaForCausalLM(LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=100))
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def _not_finite() -> nn.Module:
    model = build_bert()
    model.bert.embeddings.word_embeddings.weight.data[3, 3] = float("nan")
    return model


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (build_bert, {"int8": False}, "needs int8=True or a rank"),
        (build_bert, {"rank": 1.0}, r"rank must be a share of the width in \(0, 1\), got 1.0"),
        (build_bert, {"rank": 0.5, "counts": torch.ones(7)}, "counts must be one number for each row"),
        (lambda: nn.Linear(4, 4), {}, "has no embedding table to make smaller"),
        (_shared_by_a_stranger, {}, "'words' shares its weight with 'other', a _Reads, which cannot read compact rows"),
        (_tied_by_hand, {}, "the model's configuration does not say so"),
        (_not_finite, {}, "table 'bert.embeddings.word_embeddings' holds NaN or infinity"),
    ],
)
def test_what_cannot_be_made_compact_is_refused_and_left(
    model: Callable[[], nn.Module], options: dict[str, Any], message: str
) -> None:
    built = model()
    with pytest.raises(LosparseError, match=message):
        compress_embeddings_(built, **options)
    assert not compact_tables(built)


def test_twice_is_refused() -> None:
    model = build_bert()
    compress_embeddings_(model)
    with pytest.raises(LosparseError, match="compact already"):
        compress_embeddings_(model)


ENTRY = "bert.embeddings.word_embeddings"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 99}, "says 'bert.embeddings.word_embeddings.*' is 99x32, the weights have 100x32"),
        ({"rows": "many"}, "'rows' must be a whole number"),
        ({"width": 0}, "'width' must be a whole number"),
        ({"rank": 33}, r"rank must be in 0..32"),
        ({"rank": 16}, "the weights have 100x32"),
        ({"bits": 4}, "'bits' must be 8 or null"),
        ({"bits": True}, "'bits' must be 8 or null"),
        ({"bits": None}, "is no compact one"),
        ({"color": 1}, "it has unknown keys"),
        (None, "it must be an object, got 7"),
    ],
)
def test_a_damaged_entry_is_refused_in_one_line(change: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    model = build_bert()
    compress_embeddings_(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    tables = config["quantization_config"]["embeddings"]
    tables[ENTRY] = 7 if change is None else {**tables[ENTRY], **change}
    file.write_text(json.dumps(config))
    with pytest.raises(LosparseError, match=message) as refused:
        stored_tables(read_checkpoint(tmp_path))
    assert "\n" not in str(refused.value)
    with pytest.raises(LosparseError):
        type(model).from_pretrained(tmp_path)


def test_scales_that_say_nothing_are_refused(tmp_path: Path) -> None:
    model = build_bert()
    compress_embeddings_(model)
    model.bert.embeddings.word_embeddings.scale[3] = float("inf")
    model.save_pretrained(tmp_path)
    with pytest.raises(LosparseError, match=r"'bert.embeddings.word_embeddings': its scales must be finite"):
        type(model).from_pretrained(tmp_path)
