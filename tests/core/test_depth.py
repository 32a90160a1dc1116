"""drop_layers: which blocks stay, and that the result is an ordinary smaller model."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BartModel,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
)

from losparse import SVD, compress_, drop_layers
from losparse.errors import LosparseError
from losparse.models.depth import block_importance, even_layers, find_blocks

from .conftest import TINY, build_bert

IDS = torch.arange(10, 22).reshape(2, 6)


def gpt2(**overrides):
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(**{"n_layer": 4, "n_head": 2, "n_embd": 32, "vocab_size": 60, "n_positions": 32, **overrides})
    ).eval()


def modern_bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 60}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
    return ModernBertModel(ModernBertConfig(num_hidden_layers=6, **sizes, **ids)).eval()


@pytest.mark.parametrize(
    ("total", "keep", "kept"),
    [(6, 3, (1, 3, 5)), (12, 6, (1, 3, 5, 7, 9, 11)), (6, 4, (1, 2, 4, 5)), (12, 4, (2, 5, 8, 11)), (6, 1, (5,))],
)
def test_even_spacing(total, keep, kept):
    assert even_layers(total, keep) == kept


def test_even_spacing_always_keeps_as_many_as_asked_for_and_the_last():
    for total in range(1, 25):
        for keep in range(1, total + 1):
            kept = even_layers(total, keep)
            assert len(set(kept)) == keep and list(kept) == sorted(kept)
            assert kept[0] >= 0 and kept[-1] == total - 1


def test_a_dropped_model_is_an_ordinary_smaller_one(tmp_path):
    whole, model = build_bert(num_hidden_layers=6), build_bert(num_hidden_layers=6)
    assert drop_layers(model, 3) == (1, 3, 5)
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 3
    assert model.config.losparse_kept_layers == [1, 3, 5]
    for block, number in zip(model.bert.encoder.layer, (1, 3, 5), strict=True):
        original = whole.bert.encoder.layer[number].state_dict()
        assert all(torch.equal(tensor, original[name]) for name, tensor in block.state_dict().items())
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.losparse_kept_layers == [1, 3, 5]
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, again(IDS).logits)
        assert not torch.equal(model(IDS).logits, whole(IDS).logits)


def test_all_blocks_may_stay():
    model = build_bert()
    before = model(IDS).logits
    assert drop_layers(model, 2) == (0, 1)
    assert torch.equal(model(IDS).logits, before)


def test_dropping_twice_counts_in_the_first_model():
    model = build_bert(num_hidden_layers=6)
    drop_layers(model, 3)
    assert drop_layers(model, 2) == (1, 2)
    assert model.config.losparse_kept_layers == [3, 5]


def test_a_dropped_model_is_compressed_like_any_other(tmp_path):
    model = build_bert(num_hidden_layers=4)
    drop_layers(model, [0, 3])
    assert len(compress_(model, SVD(keep=0.3)).layers) == 12
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)


# Importance


def test_importance_is_the_mean_turn_of_the_hidden_states():
    model = build_bert(num_hidden_layers=3)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    with torch.no_grad():
        states = model(IDS, attention_mask=mask, output_hidden_states=True).hidden_states
    pairs = pairwise(states)
    expected = [float((1 - F.cosine_similarity(a, b, dim=-1))[mask.bool()].mean()) for a, b in pairs]
    found = block_importance(model, [{"input_ids": IDS, "attention_mask": mask, "labels": torch.tensor([0, 1])}])
    assert found == pytest.approx(expected, rel=1e-5)  # fp32 sums in another order
    # the batch in two: the mean is over tokens, not over batches
    halves = [{"input_ids": IDS[i : i + 1], "attention_mask": mask[i : i + 1]} for i in range(2)]
    assert block_importance(model, halves) == pytest.approx(expected, rel=1e-4)


def test_the_least_important_blocks_are_dropped():
    model = gpt2()
    for number in (0, 2):  # these two add nothing to the stream
        for name, parameter in model.transformer.h[number].named_parameters():
            if "c_proj" in name:
                torch.nn.init.zeros_(parameter)
    before = model(IDS).logits
    assert drop_layers(model.train(), 2, by="importance", batches=[{"input_ids": IDS}]) == (1, 3)
    assert model.training, "measuring leaves the mode as it was"
    torch.testing.assert_close(model.eval()(IDS).logits, before)


# Architectures


def test_a_decoder_goes_on_with_its_cache(tmp_path):
    model = gpt2()
    drop_layers(model, [0, 2, 3])
    assert model.config.n_layer == 3
    assert [block.attn.layer_idx for block in model.transformer.h] == [0, 1, 2]
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(IDS)}
    cached = model.generate(IDS, use_cache=True, **options)
    assert torch.equal(cached, model.generate(IDS, use_cache=False, **options))
    assert torch.equal(cached, again.generate(IDS, use_cache=True, **options))


@pytest.mark.parametrize(
    "config",
    [
        RobertaConfig(**TINY),
        ElectraConfig(**TINY, embedding_size=16),
        MPNetConfig(**TINY),
        DebertaV2Config(**TINY, relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3),
        LlamaConfig(**TINY),
    ],
    ids=lambda config: config.model_type,
)
def test_other_models_open_again(tmp_path, config):
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(config)).eval()
    whole = model(IDS)[0]
    assert drop_layers(model, 1) == (1,)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(IDS)[0], model(IDS)[0])
    assert not torch.equal(model(IDS)[0], whole)


def test_distilbert_calls_its_depth_otherwise(tmp_path):
    torch.manual_seed(0)
    model = DistilBertModel(DistilBertConfig(n_layers=4, dim=32, n_heads=2, hidden_dim=64, vocab_size=60)).eval()
    drop_layers(model, 2)
    assert model.config.n_layers == 2
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(IDS)[0], model(IDS)[0])


def test_types_of_blocks_follow_them(tmp_path):
    torch.manual_seed(0)
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 60, "num_hidden_layers": 4}
    window = {"layer_types": types, "use_sliding_window": True, "sliding_window": 3}
    model = Qwen3ForCausalLM(Qwen3Config(**heads, **sizes, **window)).eval()
    drop_layers(model, [1, 2, 3])
    assert model.config.layer_types == types[1:]
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_block_that_is_made_by_its_number_keeps_it(tmp_path):
    model = modern_bert()
    with pytest.raises(LosparseError, match=r"block 1 of ModernBertModel cannot become block 0.*'attn_norm"):
        drop_layers(model, 3)
    assert len(model.layers) == model.config.num_hidden_layers == 6, "nothing was changed"
    drop_layers(model, [0, 3, 5])
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(IDS)[0], model(IDS)[0])


def test_attention_scaled_by_the_number_of_its_block_is_refused():
    with pytest.raises(LosparseError, match=r"block 1 of GPT2LMHeadModel cannot become block 0.*scaling"):
        drop_layers(gpt2(scale_attn_by_inverse_layer_idx=True), 2)


def test_models_of_other_forms_are_refused():
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    bart = BartModel(
        BartConfig(d_model=16, encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=60, **sizes)
    )
    with pytest.raises(LosparseError, match="BartModel has an encoder and a decoder"):
        drop_layers(bart, 1)
    shared = AlbertModel(
        AlbertConfig(hidden_size=16, embedding_size=8, num_attention_heads=2, intermediate_size=32, vocab_size=60)
    )
    with pytest.raises(LosparseError, match="must have one list of its 12 blocks, got none"):
        find_blocks(shared)


@pytest.mark.parametrize(
    ("keep", "options", "message"),
    [
        (0, {}, r"must be in 1\.\.2, got 0"),
        (3, {}, r"must be in 1\.\.2, got 3"),
        ([], {}, r"different numbers in 0\.\.1"),
        ([1, 0], {}, "in order, got 1, 0"),
        ([0, 0], {}, "in order, got 0, 0"),
        ([1, 2], {}, "got 1, 2"),
        ([-1], {}, "got -1"),
        (1, {"by": "luck"}, "'even' or 'importance', got 'luck'"),
        (1, {"by": "importance"}, "pass batches="),
        (1, {"by": "importance", "batches": []}, "at least one batch with a token"),
    ],
)
def test_refuses(keep, options, message):
    model = build_bert()
    with pytest.raises(LosparseError, match=message):
        drop_layers(model, keep, **options)
    assert len(model.bert.encoder.layer) == 2
