"""Which layers decide together, and that what they keep folds: equal per head, shared, in multiples."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, BertConfig, DebertaV2Config, DistilBertConfig, LlamaConfig, MPNetConfig

from losparse import LoSparse, compress_
from losparse.layers.training import training_layers
from losparse.methods.losparse.coupling import Family, choose_groups, couple, separate

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}

# model, then the families of its one block
CASES = [
    (
        BertConfig(**SIZES, intermediate_size=64),
        {
            ("attention.self.query", "attention.self.key"),
            ("attention.self.value", "attention.output.dense"),
            ("intermediate.dense", "output.dense"),
        },
    ),
    (
        DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=50),
        {
            ("attention.q_lin", "attention.k_lin"),
            ("attention.v_lin", "attention.out_lin"),
            ("ffn.lin1", "ffn.lin2"),
        },
    ),
    (
        MPNetConfig(**SIZES, intermediate_size=64),
        {
            ("attention.attn.q", "attention.attn.k"),
            ("attention.attn.v", "attention.attn.o"),
            ("intermediate.dense", "output.dense"),
        },
    ),
    (
        DebertaV2Config(**SIZES, intermediate_size=64),
        {
            ("attention.self.query_proj", "attention.self.key_proj"),
            ("attention.self.value_proj", "attention.output.dense"),
            ("intermediate.dense", "output.dense"),
        },
    ),
    (
        LlamaConfig(**SIZES, intermediate_size=64),
        {
            ("self_attn.q_proj", "self_attn.k_proj"),
            ("self_attn.v_proj", "self_attn.o_proj"),
            ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        },
    ),
]


@pytest.mark.parametrize(("config", "expected"), CASES, ids=[config.model_type for config, _ in CASES])
def test_families_of_real_architectures(config, expected):
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    method = LoSparse(keep=0.4, low_rank=0.1, structure="foldable")
    compress_(model, method)
    families = method.families(training_layers(model), model.config)
    found = {tuple(name.split(".0.", 1)[-1] for name in family.layers) for family in families}
    assert found == expected
    heads = {family.layers[0].rpartition(".")[2]: family.blocks for family in families}
    assert sorted(heads.values()) == [1, 2, 2]


def test_several_query_heads_for_one_key_are_not_coupled():
    torch.manual_seed(0)
    model = AutoModel.from_config(LlamaConfig(**SIZES, num_key_value_heads=1, intermediate_size=64))
    method = LoSparse(keep=0.4, low_rank=0.1, structure="foldable")
    compress_(model, method)
    families = method.families(training_layers(model), model.config)
    assert [len(family.layers) for family in families] == [1, 1, 1, 1, 3]


def test_the_paper_lets_every_layer_decide_alone():
    layers = dict.fromkeys(["a", "b"], None)
    assert LoSparse(structure="rows").families(layers) == separate(layers) == [Family(("a",)), Family(("b",))]


def test_steps_by_hand():
    # Two heads of three: sorted within heads (5 3 1) and (6 2 0): levels 5.5, 2.5, 0.5. The lone layer: 4, 2, 1.
    families = [Family(("q", "k"), blocks=2), Family(("x",))]
    scores = {"q": torch.tensor([1.0, 3, 5, 6, 0, 2]), "x": torch.tensor([2.0, 1, 4])}
    scores["k"] = scores["q"]
    masks = choose_groups(families, scores, {"q": 1, "k": 1, "x": 2}, budget=10)
    # 5.5 costs 2 heads x 2 parameters, 4 costs 2, 2.5 costs 4: ten in all, and nothing more fits
    assert masks["q"].tolist() == masks["k"].tolist() == [False, True, True, True, False, True]
    assert masks["x"].tolist() == [False, False, True]


def test_a_family_is_scored_by_the_mean_over_its_parameters():
    families = [Family(("up", "down")), Family(("x",))]
    scores = {"up": torch.tensor([4.0]), "down": torch.tensor([1.0]), "x": torch.tensor([2.0])}
    # (4 * 1 + 1 * 3) / 4 = 1.75, below 2
    masks = choose_groups(families, scores, {"up": 1, "down": 3, "x": 2}, budget=2)
    assert not masks["up"].any() and masks["x"].all()


@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(0, 400),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_kept_counts_fold(blocks, width, multiple, budget, seed):
    random = torch.Generator().manual_seed(seed)
    families = [Family(("a", "b"), blocks, multiple), Family(("c",), 1, multiple)]
    scores = {name: torch.rand(blocks * width, generator=random) for name in "abc"}
    sizes = {"a": 2, "b": 3, "c": 4}
    masks = choose_groups(families, scores, sizes, budget)
    assert sum(int(masks[name].sum()) * sizes[name] for name in "abc") <= budget
    assert torch.equal(masks["a"], masks["b"])
    per_block = masks["a"].reshape(blocks, -1).sum(1)
    assert len(set(per_block.tolist())) == 1
    for mask in (masks["a"], masks["c"]):
        assert int(mask.sum()) % multiple == 0 or mask.all()


def test_sizes_that_do_not_match_are_not_coupled():
    layer = SimpleNamespace(mask=torch.ones(6))
    other = SimpleNamespace(mask=torch.ones(8))
    layers = {"b.0.intermediate.dense": layer, "b.0.output.dense": other}
    assert [family.layers for family in couple(layers, None, multiple=4)] == [(name,) for name in layers]
