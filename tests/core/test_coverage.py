"""How much of a model was looked at, and what was left: counted by hand on tiny models."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from losparse import SVD, compress_, inspect_folder
from losparse.models.coverage import coverage, left_by_name
from losparse.saving.folder import read_checkpoint

from .conftest import build_bert

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}


def build(name: str, head: str = "Model", **settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **settings})
    model: PreTrainedModel = getattr(transformers, f"{name}{head}")(config).eval()
    return model


def test_experts_that_are_missed_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = build("Mixtral", "ForCausalLM", **EXPERTS)
    attention = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32)
    experts = 2 * 4 * 3 * 32 * 64
    others = 2 * 4 * 32 + 50 * 32  # routers and the head
    with caplog.at_level(logging.WARNING, "losparse.compress"):
        found = compress_(model, SVD(keep=0.5)).coverage
    assert found is not None
    assert (found.looked_at, found.linear) == (attention, attention + experts + others)
    assert found.left[0].name == "model.layers.*.mlp.experts.gate_up_proj" and found.left[0].count == 2
    assert sum(left.parameters for left in found.left) == experts + others
    (record,) = caplog.records
    assert "only 10.8% of the model's linear parameters" in record.getMessage()
    assert "model.layers.*.mlp.experts.gate_up_proj (32,768)" in record.getMessage()


def test_nothing_is_said_where_the_blocks_were_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "losparse.compress"):
        report = compress_(build_bert(), SVD(keep=0.5))
    assert report.coverage is not None and report.coverage.warning is None and not caplog.records
    pooler, classifier = 32 * 32, 2 * 32
    assert report.coverage.linear == report.dense_parameters + pooler + classifier
    assert report.to_dict()["looked_at"]["share"] == report.coverage.share
    json.dumps(report.to_dict())


@pytest.mark.parametrize(
    ("model", "left"),
    [
        # A head that is tied to the embeddings is a table that is read.
        (lambda: build("GPT2", "LMHeadModel", n_embd=32, n_layer=2, n_head=4), {}),
        # Products with raw parameters: query, key, value, output and positions of two blocks.
        (
            lambda: build("XLNet", d_model=32, n_layer=2, n_head=4, d_inner=64),
            {f"layer.*.rel_attn.{name}": 2 for name in "qkvor"},
        ),
        # Subclasses of nn.Linear, and pointwise convolutions; the grid of patches is another kind of convolution.
        (
            lambda: nn.ModuleDict(
                {"blocks": nn.ModuleList([nn.Linear(4, 4)]), "point": nn.Conv1d(4, 4, 1), "patch": nn.Conv2d(3, 4, 2)}
            ),
            {"point": 1},
        ),
    ],
)
def test_what_counts(model: Any, left: dict[str, int]) -> None:
    found = compress_(model(), SVD(keep=0.5)).coverage
    assert found is not None
    named = {one.name: one.count for one in found.left if "bias" not in one.name and "mask" not in one.name}
    assert named == left


@pytest.mark.parametrize(
    "model", [lambda: build("Mixtral", "ForCausalLM", **EXPERTS), build_bert, lambda: build("Llama")]
)
def test_a_checkpoint_says_the_same_by_names_alone(model: Any, tmp_path: Path) -> None:
    small = model()
    report = compress_(small, SVD(keep=0.5))
    small.save_pretrained(tmp_path)
    contents = inspect_folder(tmp_path)
    assert contents.coverage is not None and report.coverage is not None
    assert contents.coverage.linear == report.coverage.linear
    assert contents.to_dict()["looked_at"]["share"] == report.coverage.share


def test_experts_that_are_stored_one_by_one_count_too() -> None:
    shapes = {f"h.0.experts.{i}.w1.weight": (8, 4) for i in range(3)} | {"wte.weight": (9, 4), "conv.weight": (4, 4, 3)}
    assert left_by_name(shapes, {}) == {f"h.0.experts.{i}.w1": 32 for i in range(3)}
    assert coverage(0, left_by_name(shapes, {})).left[0].name == "h.*.experts.*.w1"


def test_a_dense_checkpoint_says_what_would_be_looked_at(tmp_path: Path) -> None:
    build("Mixtral", "ForCausalLM", **EXPERTS).save_pretrained(tmp_path)
    found = inspect_folder(tmp_path).coverage
    assert found is not None and found.linear > 0
    assert read_checkpoint(tmp_path).shapes
