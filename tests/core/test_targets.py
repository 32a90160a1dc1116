"""Which layers are chosen, and what is refused."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MPNetConfig,
    Qwen2MoeConfig,
    RobertaConfig,
    SwinConfig,
)

from losparse import LPAF, SVD, LoSparse, compress_
from losparse.errors import LosparseError
from losparse.layers.linear import find_targets, thin_targets
from losparse.layers.patterns import matches
from losparse.layers.training import training_layers
from losparse.models.roles import writes_residual

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
FAMILIES = [
    (BertConfig(**SMALL), "encoder.layer.0.attention.output.dense"),
    (RobertaConfig(**SMALL), "encoder.layer.0.attention.output.dense"),
    (ElectraConfig(**SMALL, embedding_size=32), "encoder.layer.0.attention.output.dense"),
    (MPNetConfig(**SMALL), "encoder.layer.0.attention.attn.o"),
    (DebertaV2Config(**SMALL), "encoder.layer.0.attention.output.dense"),
    (
        DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=50),
        "transformer.layer.0.attention.out_lin",
    ),
]


@pytest.mark.parametrize(("config", "output"), FAMILIES, ids=lambda value: getattr(value, "model_type", ""))
def test_takes_the_six_linear_layers_of_each_block(config, output):
    names = list(find_targets(AutoModel.from_config(config, attn_implementation="eager")))
    assert len(names) == 12
    assert output in names
    assert sum(writes_residual(name) for name in names) == 4, "attention output and ffn-down of two blocks"


def test_embeddings_head_and_pooler_are_left(tiny_bert):
    names = find_targets(tiny_bert())
    assert all(".encoder.layer." in name for name in names)


def test_patterns(tiny_bert):
    model = tiny_bert()
    assert len(find_targets(model, ["*.query"])) == 2
    assert len(find_targets(model, ["re:.*(query|key)"])) == 4
    assert len(find_targets(model, ignore=["*.layer.0.*"])) == 6
    assert list(find_targets(model, ["classifier"])) == ["classifier"]


def test_glob_and_regex():
    assert matches("a.b.query", "*.query")
    assert not matches("a.b.query_proj", "*.query")
    assert matches("a.b.query", "re:.*query")
    assert not matches("a.b.query", "re:query"), "a regular expression covers the whole name"
    with pytest.raises(LosparseError, match="not a regular expression"):
        matches("a", "re:(")


def test_conv1d_is_transposed_and_exact():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50, n_positions=16)).eval()
    ids = torch.arange(8)[None]
    before = model(ids).logits
    report = compress_(model, LoSparse(keep=0.3, low_rank=0.1))
    first = report.layers[0]
    assert (first.name, first.spec.out_features, first.spec.in_features) == ("transformer.h.0.attn.c_attn.q", 32, 32)
    # the start is exact up to fp32 rounding of u v + (W - u v)
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"targets": ["nothing.*"]}, "target pattern 'nothing.\\*' matches none"),
        ({"ignore": ["nothing"]}, "ignore pattern 'nothing' matches none"),
        ({"ignore": ["*"]}, "has no layer to compress"),
    ],
)
def test_refuses_patterns_without_effect(tiny_bert, kwargs, message):
    with pytest.raises(LosparseError, match=message):
        find_targets(tiny_bert(), **kwargs)


def test_refuses_a_model_without_blocks():
    with pytest.raises(LosparseError, match="no layer to compress"):
        find_targets(nn.Sequential(nn.Linear(4, 4)))


def test_refuses_compressed_and_quantised_and_wrapped(tiny_bert):
    model = tiny_bert()
    compress_(model, LoSparse(keep=0.5, low_rank=0.1))
    with pytest.raises(LosparseError, match="already compressed"):
        find_targets(model)
    quantised = tiny_bert()
    quantised.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(LosparseError, match=r"already quantised \(bitsandbytes\)"):
        find_targets(quantised)
    wrapped = tiny_bert()
    wrapped.peft_config = {}
    with pytest.raises(LosparseError, match="PEFT adapters"):
        find_targets(wrapped)


def test_refuses_a_tied_head_by_name():
    model = BertForMaskedLM(BertConfig(**SMALL))
    with pytest.raises(LosparseError, match=r"'cls\.predictions\.decoder' shares its weight with"):
        find_targets(model, ["cls.predictions.decoder"])


def test_a_module_used_twice_is_replaced_under_both_names():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = nn.ModuleDict({"one": nn.Linear(16, 16)})
            block["two"] = block["one"]
            self.blocks = nn.ModuleList([block])

    model = Twice()
    compress_(model, LoSparse(keep=0.5, low_rank=0.2))
    assert type(model.blocks[0]["one"]).__name__ == "FactoredLinearTraining"
    assert model.blocks[0]["one"] is model.blocks[0]["two"]


def test_nothing_changes_when_one_layer_is_refused(tiny_bert):
    model = tiny_bert()
    model.bert.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(LosparseError, match=r"'bert.encoder.layer.1.output.dense' holds NaN"):
        compress_(model, LoSparse())
    assert all(type(module) is nn.Linear for module in find_targets(model).values())


QWEN = {**SMALL, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize("method", [LoSparse(keep=0.4, low_rank=0.1), LoSparse(), SVD(keep=0.4, pivots=False), LPAF()])
def test_a_thin_layer_stays_dense_with_a_word(method, caplog):
    model = AutoModel.from_config(Qwen2MoeConfig(**QWEN, shared_expert_intermediate_size=32))
    gate = "layers.0.mlp.shared_expert_gate"
    assert list(thin_targets(model)) == [gate, gate.replace("0", "1")] and gate not in find_targets(model)
    with caplog.at_level(logging.WARNING, "losparse.compress"):
        report = compress_(model, method)
    assert type(model.get_submodule(gate)) is nn.Linear
    assert gate not in {layer.name for layer in report.layers}
    assert f"{gate!r} and 1 like it stay dense" in caplog.text
    assert "layers.*.mlp.shared_expert_gate" in {left.name for left in report.coverage.left}


def test_thin_layers_alone_are_nothing_to_compress():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(64, 1), nn.Linear(2, 2)])})
    with pytest.raises(LosparseError, match=r"so thin .* the first, 'blocks\.0', is 1x64; name others with targets="):
        find_targets(model)


def test_a_share_that_rounds_up_to_break_even_is_rounded_down():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(64, 2), nn.Linear(64, 64)])})
    compress_(
        model, LoSparse(keep=0.8, low_rank=0.6, structure="foldable")
    )  # 0.6 of 1.94 is 1.16: two factors of rank 2 would be larger
    assert model["blocks"][0].rank == 1


def test_heads_of_every_stage_are_not_taken_for_one_number():
    config = SwinConfig(image_size=32, patch_size=4, embed_dim=32, depths=[1, 1], num_heads=[2, 4], window_size=4)
    model = AutoModel.from_config(config)
    method = LoSparse(keep=0.5, low_rank=0.1, structure="foldable")
    compress_(model, method)
    families = method.families(training_layers(model), model.config)
    assert sorted(len(family.layers) for family in families) == [1] * 9 + [2, 2]
