"""The structure `narrow`: whole heads, equally wide ones, and no low-rank part in the feed-forward layers."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    EsmConfig,
    LlamaConfig,
    MPNetConfig,
    RoFormerConfig,
    Wav2Vec2ConformerConfig,
)

from losparse import LoSparse, StructuredPruning
from losparse.layers.factored import FactoredLinear
from losparse.layers.linear import find_targets
from losparse.methods.losparse.attentions import find_attentions
from losparse.methods.losparse.coupling import Family, choose_groups
from losparse.methods.losparse.heads import Attention, _below
from losparse.models.heads import rotates
from losparse.models.roles import in_attention
from losparse.random_factors import _plan, random_factors_, sizes_of

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
MODELS = {
    "bert": BertConfig(**SIZES, intermediate_size=96),
    "distilbert": DistilBertConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=96, vocab_size=50),
    "mpnet": MPNetConfig(**SIZES, intermediate_size=96),
}


def attention(*, score_step: int = 1, value_step: int = 1, heads: int = 2) -> Attention:
    return Attention(("q", "k"), ("v",), ("o",), heads, score_step, value_step)


def test_a_head_goes_where_it_matters_least():
    # Heads of two; head 0 matters in all dimensions, head 1 in none: it goes whole, then what is left of head 0.
    scores = {name: torch.tensor([8.0, 6, 1, 1]) for name in "qkvo"}
    sizes = dict.fromkeys("qkvo", 3)
    masks = choose_groups([attention()], scores, sizes, budget=4 * 3 * 2)
    assert all(mask.tolist() == [True, True, False, False] for mask in masks.values())


def test_dimensions_go_where_they_matter_least():
    # The second dimension matters in no head; keys lose it first, because there it matters least.
    scores = {"q": torch.tensor([8.0, 0, 8, 0]), "v": torch.tensor([8.0, 1, 8, 1])}
    scores |= {"k": scores["q"], "o": scores["v"]}
    sizes = dict.fromkeys("qkvo", 1)
    masks = choose_groups([attention()], scores, sizes, budget=12)
    assert masks["q"].tolist() == masks["k"].tolist() == [True, False, True, False]
    assert masks["v"].tolist() == masks["o"].tolist() == [True] * 4
    masks = choose_groups([attention()], scores, sizes, budget=8)
    assert masks["v"].tolist() == [True, False, True, False]


def test_a_dear_removal_takes_the_cheap_ones_behind_it_along():
    # Keys of head 0 and values of head 1 matter: no head can go alone without one of them, dimensions go in pairs.
    family = attention(score_step=2, value_step=2)
    scores = {name: torch.rand(4, generator=torch.Generator().manual_seed(place)) for place, name in enumerate("qkvo")}
    steps = family.steps(scores, dict.fromkeys("qkvo", 1))
    assert (steps.scores[:-1] >= steps.scores[1:]).all()
    assert int(steps.costs.sum()) == 16


def test_what_no_longer_fits_leaves_room_for_smaller_steps():
    families = [attention(score_step=2, value_step=2), Family(("x",))]
    scores = {name: torch.full((4,), 5.0) for name in "qkvo"} | {"x": torch.tensor([1.0, 2, 3])}
    # One head costs 8, both 16: the second does not fit, two of `x` do.
    masks = choose_groups(families, scores, dict.fromkeys("qkvox", 1), budget=10)
    assert sum(int(mask.sum()) for mask in masks.values()) == 10
    assert masks["x"].tolist() == [False, True, True]


@given(
    heads=st.integers(1, 4),
    width=st.integers(1, 9),
    steps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    budget=st.integers(0, 300),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_what_is_kept_is_heads_of_equal_width(heads, width, steps, budget, seed):
    random = torch.Generator().manual_seed(seed)
    family = attention(score_step=steps[0], value_step=steps[1], heads=heads)
    scores = {name: torch.rand(heads * width, generator=random) for name in "qkvo"} | {"x": torch.rand(5)}
    sizes = {"q": 2, "k": 2, "v": 2, "o": 3, "x": 1}
    masks = choose_groups([family, Family(("x",))], scores, sizes, budget)
    assert sum(int(mask.sum()) * sizes[name] for name, mask in masks.items()) <= budget
    assert torch.equal(masks["q"], masks["k"]) and torch.equal(masks["v"], masks["o"])
    score, value = masks["q"].reshape(heads, -1).sum(1), masks["v"].reshape(heads, -1).sum(1)
    assert torch.equal(score > 0, value > 0)  # a head lives in both or in none
    for counts, step in ((score, steps[0]), (value, steps[1])):
        live = set(counts[counts > 0].tolist())
        assert len(live) <= 1
        assert all(count == width or count % step == 0 for count in live)


@pytest.mark.parametrize("name", MODELS)
def test_models_keep_heads_whole_and_have_no_low_rank_part_in_feed_forward_layers(name):
    torch.manual_seed(0)
    model = AutoModel.from_config(deepcopy(MODELS[name]))
    report = random_factors_(model, StructuredPruning(keep=0.4, structure="narrow"))
    assert report.share <= 0.4
    for block in range(2):
        layers = {n: m for n, m in model.named_modules() if isinstance(m, FactoredLinear) and f".{block}." in n}
        sides = {n: set() if m.kept is None else {int(place) // 16 for place in m.kept} for n, m in layers.items()}
        heads = [found for n, found in sides.items() if in_attention(n)]
        assert len(heads) == 4 and all(found == heads[0] for found in heads)


def test_the_low_rank_part_is_in_the_attention_alone():
    torch.manual_seed(0)
    model = AutoModel.from_config(deepcopy(MODELS["bert"]))
    report = random_factors_(model, LoSparse(keep=0.4, low_rank=0.1, structure="narrow"))
    assert report.share <= 0.4
    ranks = {n: m.rank for n, m in model.named_modules() if isinstance(m, FactoredLinear)}
    assert {rank > 0 for n, rank in ranks.items() if in_attention(n)} == {True}
    assert {rank for n, rank in ranks.items() if not in_attention(n)} == {0}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bert.encoder.layer.0.attention.self.query", True),
        ("bert.encoder.layer.0.attention.output.dense", True),
        ("bert.encoder.layer.0.output.dense", False),
        ("bert.encoder.layer.0.intermediate.dense", False),
        ("encoder.block.0.layer.0.SelfAttention.o", True),
        ("encoder.block.0.layer.1.DenseReluDense.wo", False),
        ("transformer.attentions.0.out_lin", True),
        ("transformer.ffns.0.lin2", False),
        ("model.decoder.layers.0.self_attn.out_proj", True),
        ("model.decoder.layers.0.fc2", False),
        ("layers.0.attn.Wqkv", True),
        ("layers.0.attn.Wo", True),
        ("layers.0.mlp.Wo", False),
        ("h.0.attn.c_proj", True),
        ("h.0.mlp.c_proj", False),
    ],
)
def test_which_layers_belong_to_an_attention(name, found):
    assert in_attention(name) is found


def test_key_heads_go_with_the_query_heads_that_read_them():
    # Two key heads of two dimensions, two query heads each. The second key head matters most, by its queries.
    scores = {"q": torch.tensor([1.0, 1, 1, 1, 9, 8, 9, 8]), "k": torch.ones(4)}
    scores |= {"v": torch.ones(4), "o": torch.tensor([1.0, 1, 1, 1, 1, 2, 1, 2])}
    grouped = Attention(("q", "k"), ("v",), ("o",), heads=2, score_step=0, value_step=1)
    sizes = dict.fromkeys("qkvo", 1)
    # A key head has 4 + 2 places of scores and 2 + 4 of values; a value dimension of one costs 3.
    masks = choose_groups([grouped], scores, sizes, budget=9)
    assert masks["q"].tolist() == [False] * 4 + [True] * 4
    assert masks["k"].tolist() == [False, False, True, True]
    assert masks["v"].tolist() == [False, False, False, True]
    assert masks["o"].tolist() == [False] * 5 + [True, False, True]
    assert grouped.live(masks["o"]).tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("rank", [0, 3])
def test_rotated_heads_keep_all_of_their_query_and_key_dimensions(rank):
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, intermediate_size=96)
    model = AutoModel.from_config(config)
    method = LoSparse(keep=0.5, low_rank=0.1 if rank else 0, structure="narrow")
    assert random_factors_(model, method).share <= 0.5
    layers = {n.split(".")[-1]: m for n, m in model.named_modules() if isinstance(m, FactoredLinear) and ".0." in n}
    widths = {}
    for name, heads in (("q_proj", 4), ("k_proj", 2), ("v_proj", 2), ("o_proj", 4)):
        kept = torch.zeros(heads * 16, dtype=torch.bool)
        if layers[name].kept is not None:
            kept[layers[name].kept] = True
        widths[name] = kept.reshape(2, -1, 16)
        if rank:
            factor = layers[name].v.T if name == "o_proj" else layers[name].u
            live = kept.reshape(2, -1).any(1)
            assert torch.equal((factor.reshape(2, -1) != 0).any(1), live)
    assert torch.equal(widths["q_proj"][:, 0], widths["q_proj"][:, 1])
    assert torch.equal(widths["q_proj"][:, :1], widths["k_proj"])
    assert torch.equal(widths["o_proj"][:, 0], widths["v_proj"][:, 0])
    whole = widths["k_proj"].sum(-1).flatten().tolist()
    assert set(whole) <= {0, 16}


def test_an_exported_head_is_as_wide_as_what_is_kept_and_the_rank():
    # 64 dimensions, rank 20: with 44 kept a head is as wide as before, then 28 + 20 = 48, and 12 + 20 = 32.
    assert _widths(64, 16, 20) == [44, 28, 12]
    assert _widths(64, 16, 0) == [48, 32, 16]
    assert _widths(64, 16, 16) == [48, 32, 16]
    assert _widths(10, 4, 3) == [5, 1]
    assert _widths(64, 0, 20) == []


def _widths(whole, step, rank):
    found, kept = [], whole
    while kept := _below(kept, whole, step, rank):
        found.append(kept)
    return found


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (BertConfig(), False),
        (LlamaConfig(), True),
        (RoFormerConfig(), True),
        (EsmConfig(vocab_size=33), False),
        (EsmConfig(vocab_size=33, position_embedding_type="rotary"), True),
        (Wav2Vec2ConformerConfig(), False),
    ],
)
def test_which_models_rotate_queries_and_keys(config, found):
    assert rotates(config) is found


def test_decoders_have_their_own_number_of_heads():
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    config = BartConfig(**sizes, encoder_attention_heads=2, decoder_attention_heads=4, vocab_size=50)
    model = AutoModel.from_config(config)
    method = StructuredPruning(keep=0.5, structure="narrow")
    plans = {name: _plan(name, one, method) for name, one in sizes_of(find_targets(model)).items()}
    heads = {one.layers[0].rpartition(".")[0]: one.heads for one in find_attentions(plans, config)}
    assert heads == {
        "encoder.layers.0.self_attn": 2,
        "decoder.layers.0.self_attn": 4,
        "decoder.layers.0.encoder_attn": 4,
    }
