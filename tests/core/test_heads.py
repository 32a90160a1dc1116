"""What reports say of heads: of a model in memory, of a checkpoint, and while it is trained."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import AutoModel, BertConfig, LlamaConfig

from losparse import SVD, LoSparse, compress_, inspect_folder
from losparse.cli.inspect import _row
from losparse.layers.linear import find_targets, replace_module
from losparse.layers.spec import LayerSpec
from losparse.methods.losparse.heads import Attention
from losparse.models.heads import Heads, heads_of
from losparse.models.report import report
from losparse.random_factors import random_factors_

SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 50, "intermediate_size": 96}
CONFIG = BertConfig(**SIZES)
NAMES = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]


def specs(kept: int = 8, rank: int = 0) -> dict[str, LayerSpec]:
    return {n: LayerSpec(64, 64, rank, kept, "in" if n.endswith("dense") else "out") for n in NAMES}


def test_heads_of_what_is_kept():
    places = torch.tensor([0, 1, 2, 3, 32, 33, 34, 35])  # heads 0 and 2, four places each
    assert heads_of(specs(), dict.fromkeys(NAMES, places), CONFIG) == dict.fromkeys(NAMES, Heads(2, 4))
    assert Heads(2, 4).width(specs(rank=3)[NAMES[0]]) == 7
    assert Heads(2, 4).width(specs(rank=30)[NAMES[0]]) == 16  # no wider than it was


@pytest.mark.parametrize(
    "change",
    [
        {NAMES[0]: torch.tensor([0, 1, 2, 32])},  # unequally wide
        {NAMES[2]: torch.tensor([0, 1, 16, 17])},  # values live in other heads
        dict.fromkeys(NAMES),  # nothing is kept, and the low-rank parts may be of all heads
    ],
)
def test_nothing_is_said_where_heads_are_not_alike(change):
    places = dict.fromkeys(NAMES, torch.tensor([0, 1, 32, 33]))
    assert heads_of(specs(4, rank=2), places | change, CONFIG) == {}


def test_notes_of_another_kind_are_passed_over():
    assert Heads.from_entry([4, 12]) == Heads(4, 12)
    for entry in (None, [], [4], ["4", 12], [13, 12], [True, 12], {"live": 4}, [0, 0]):
        assert Heads.from_entry(entry) is None


def test_a_model_and_its_checkpoint_say_the_same(tmp_path):
    torch.manual_seed(0)
    model = AutoModel.from_config(deepcopy(CONFIG))
    report = random_factors_(model, LoSparse(keep=0.2, low_rank=0.1, structure="narrow"))
    model.save_pretrained(tmp_path)
    in_memory = {layer.name: layer.heads for layer in report.layers}
    stored = {layer.name: layer.heads for layer in inspect_folder(tmp_path).layers}
    assert stored == in_memory
    query = next(layer for layer in report.layers if layer.name.endswith("query"))
    value = next(layer for layer in report.layers if layer.name.endswith("value"))
    live = query.heads.live
    assert 0 < live < 4 and query.heads.of == 4 and query.spec.kept % live == 0
    wide = [layer.heads.width(layer.spec) for layer in (query, value)]
    assert report.to_dict()["attentions"] == [
        f"encoder.layer.0.attention: heads {live} of 4, {wide[0]} + {wide[1]} wide"
    ]
    shown = [_row(layer) for layer in inspect_folder(tmp_path).layers if layer.name == query.name]
    assert shown[0][3] == f"{query.spec.kept} rows, heads {live} of 4, {wide[0]} wide"
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.quantization_config.layers[query.name]["heads"] == [live, 4]


def test_low_rank_alone_says_nothing_of_heads():
    model = AutoModel.from_config(deepcopy(CONFIG))
    assert compress_(model, SVD(keep=0.3)).to_dict()["attentions"] == []


def test_grouped_heads_are_counted_as_queries():
    torch.manual_seed(0)
    model = AutoModel.from_config(LlamaConfig(**SIZES, num_key_value_heads=2))
    report = random_factors_(model, LoSparse(keep=0.3, low_rank=0, structure="narrow"))
    heads = {layer.name.rpartition(".")[2]: layer.heads for layer in report.layers}
    assert heads["q_proj"].of == 4 and heads["k_proj"].of == 2
    assert heads["q_proj"].live == 2 * heads["k_proj"].live


def test_training_says_what_the_report_will():
    attention = Attention(("q", "k"), ("v",), ("o",), heads=2, score_step=4, value_step=4, value_rank=2)
    key = torch.tensor([True] * 8 + [False] * 8)
    value = torch.tensor([True] * 4 + [False] * 12)
    masks = {"q": key.reshape(2, 1, 8).expand(2, 2, 8).flatten(), "k": key, "v": value}
    assert attention.said(masks) == "heads 2 of 4, 8 + 6 wide"


def test_an_attention_of_which_nothing_is_left_says_so():
    torch.manual_seed(0)
    model = AutoModel.from_config(deepcopy(CONFIG))
    layers = {name: module for name, module in find_targets(model).items() if "attention" in name}
    method = LoSparse(keep=0.4, low_rank=0.1, structure="narrow")
    plans = {name: method.start(name, module.weight, module.bias) for name, module in layers.items()}
    for name, plan in plans.items():
        plan.mask.zero_()
        plan.live.zero_()
        plan.apply_mask()
        replace_module(model, layers[name], plan.compact())
    assert report(model).to_dict()["attentions"] == ["encoder.layer.0.attention: heads 0 of 4, 0 + 0 wide"]
