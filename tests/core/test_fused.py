"""Products that models keep for several layers: taken apart as the models do it, exactly, and saved so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from losparse import SVD, LoSparse, compress_
from losparse.compress import check_compressible, compact_
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.fused import FusedSpec, whole_of
from losparse.layers.linear import find_targets, replace_module, weight_of
from losparse.layers.patterns import matches
from losparse.layers.split import SplitLinear, split_linear
from losparse.layers.training import training_layers
from losparse.models.fused import fused_apart, split_products
from losparse.models.heads import numbers_of_heads
from losparse.models.roles import whole_attentions
from losparse.saving.quantizer import mark_compressed

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 60}
# Weights ten times as large as a new model's: what a wrong row does must show in the outputs.
SPREAD = {"initializer_range": 0.3}
SIZES = {**IDS, **SPREAD, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GPT = {**IDS, **SPREAD, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert": ("ModernBertModel", {**SIZES, "local_attention": 8}),
    "gpt2": ("GPT2Model", GPT),
    "openai-gpt": ("OpenAIGPTModel", GPT),
    "imagegpt": ("ImageGPTModel", GPT),
    "gpt-bigcode": ("GPTBigCodeModel", {**GPT, "multi_query": False}),
    "gpt-bigcode-mqa": ("GPTBigCodeModel", {**GPT, "multi_query": True}),
    "phi3": ("Phi3Model", {**SIZES, "num_key_value_heads": 2}),
    "gpt-neox": ("GPTNeoXModel", SIZES),
    "gpt-neox-japanese": ("GPTNeoXJapaneseModel", SIZES),
    "bloom": ("BloomModel", {**IDS, **SPREAD, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "persimmon": ("PersimmonModel", SIZES),
    "mpt": ("MptModel", {**IDS, **SPREAD, "d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2}),
    "codegen": ("CodeGenModel", {**GPT, "rotary_dim": 4}),
    "deberta": ("DebertaModel", {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
}


def build(family: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    name, settings = FAMILIES[family]
    kind: type[PreTrainedModel] = getattr(transformers, name)
    model = kind(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):  # zeros in a new model, of which any row could be any part's
                parameter.normal_(0.0, 0.3)
    return model


@torch.no_grad()
def numbers(model: PreTrainedModel) -> Tensor:
    ids = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    result: Tensor = model(input_ids=ids, return_dict=True)[0]
    return result


def products(model: nn.Module) -> list[SplitLinear]:
    return [module for module in model.modules() if isinstance(module, SplitLinear)]


def attention_parts(model: nn.Module) -> list[tuple[Any, Any, Any, Any]]:
    """Return query, key, value and output of every attention, as modules."""
    found = whole_attentions(find_targets(model))
    query, key, value, output = ([model.get_submodule(names[place]) for names in found] for place in range(4))
    return list(zip(query, key, value, output, strict=True))


# Two products in place of one add the same terms, in blocks of another size.
def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_taken_apart_a_model_computes_the_same_and_is_put_back(family: str) -> None:
    model = build(family)
    before, names = numbers(model), [name for name, _ in model.named_modules()]
    with fused_apart(model):
        assert products(model)
        assert close(numbers(model), before)
    assert [name for name, _ in model.named_modules()] == names, "nothing was factored"
    assert torch.equal(numbers(model), before)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_values_go_to_the_outputs_of_their_heads(family: str) -> None:
    """Without the values of the first key head, outputs are what they are where nothing of it is read."""
    model = build(family)
    _without(model, "v_bias")  # DeBERTa's, which it adds behind the product
    with fused_apart(model):
        heads, key_heads = numbers_of_heads("", model.config)
        parts = attention_parts(model)
        width = len(parts[0][2].weight) // key_heads
        before, values = numbers(model), [value.weight.clone() for _, _, value, _ in parts]
        biases = [None if value.bias is None else value.bias.clone() for _, _, value, _ in parts]
        for _, _, value, _ in parts:
            value.weight[:width] = 0
            if value.bias is not None:
                value.bias[:width] = 0
        silent = numbers(model)
        assert not close(silent, before)
        for (_, _, value, output), weight, bias in zip(parts, values, biases, strict=True):
            value.weight.copy_(weight)
            if bias is not None:
                value.bias.copy_(bias)
            weight_of(output)[:, : width * (heads // key_heads)] = 0
        assert close(numbers(model), silent)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_queries_and_keys_give_scores_alone(family: str) -> None:
    """Where there are no values it does not matter what they are."""
    model = build(family)
    _without(model, "v_bias")
    with fused_apart(model):
        parts = attention_parts(model)
        before = numbers(model)
        _turn(parts)
        assert not close(numbers(model), before)
        for _, _, value, _ in parts:
            value.weight.zero_()
            if value.bias is not None:
                value.bias.zero_()
        silent = numbers(model)
        _turn(parts)
        assert close(numbers(model), silent)


@torch.no_grad()
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "deberta"])  # it adds positions to both
def test_queries_and_keys_meet_in_their_heads(family: str) -> None:
    """Scores stay where the queries of a head double and its keys halve."""
    model = build(family)
    with fused_apart(model):
        heads, key_heads = numbers_of_heads("", model.config)
        before = numbers(model)
        for query, key, _, _ in attention_parts(model):
            for layer, count, factor in ((query, heads // key_heads, 2.0), (key, 1, 0.5)):
                rows = len(layer.weight) // (heads if layer is query else key_heads) * count
                layer.weight[:rows] *= factor
                if layer.bias is not None:
                    layer.bias[:rows] *= factor
        assert close(numbers(model), before)


def _without(model: nn.Module, ending: str) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(ending):
            parameter.zero_()


def _turn(parts: list[tuple[Any, Any, Any, Any]]) -> None:
    for query, key, _, _ in parts:
        query.weight.copy_(query.weight.flip(1)), key.weight.mul_(0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_opened_again(family: str, tmp_path: Path) -> None:
    model = build(family)
    report = compress_(model, SVD(keep=0.5))
    assert len({layer.name for layer in report.layers if whole_of(layer.name)}) >= 6, "three parts in two blocks"
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert split_products(again) == split_products(model) != {}
    for (name, one), (other_name, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(one, other), name
    # Where memory begins decides the order of some sums (DeBERTa's differ in the last bits).
    torch.testing.assert_close(numbers(again), numbers(model), atol=1e-5, rtol=1e-5)


def test_parts_of_which_one_stays_dense(tmp_path: Path) -> None:
    model = build("gpt2")
    before = numbers(model)
    compress_(model, LoSparse(keep=0.999, low_rank=0.1, structure="rows"), ignore=["*.c_attn.v", "h.1.*"])
    first, second = (model.get_submodule(f"h.{block}.attn.c_attn") for block in (0, 1))
    assert isinstance(first, SplitLinear) and [isinstance(part, FactoredLinear) for part in first.parts] == [1, 1, 0]
    assert type(second).__name__ == "Conv1D", "nothing of it was factored"
    assert first.v.weight.untyped_storage().nbytes() == 32 * 32 * 4, "the whole product's memory is free"
    assert close(numbers(model), before)
    model.save_pretrained(tmp_path)
    assert torch.equal(numbers(type(model).from_pretrained(tmp_path)), numbers(model))


def test_a_training_form_is_saved_opened_and_compacted(tmp_path: Path) -> None:
    model = build("modernbert")
    compress_(model, LoSparse(keep=0.5, low_rank=0.1))
    model.save_pretrained(tmp_path / "training")
    again = type(model).from_pretrained(tmp_path / "training")
    assert set(training_layers(again)) == set(training_layers(model)) >= {"layers.1.attn.Wqkv.k", "layers.1.mlp.Wi.up"}
    assert torch.equal(numbers(again), numbers(model))
    again.train()(torch.arange(5, 12)[None]).last_hidden_state.sum().backward()
    assert all(layer.sparse.grad is not None for layer in training_layers(again).values())
    again.eval()
    compact_(again)
    again.save_pretrained(tmp_path / "compact")
    assert torch.equal(numbers(type(model).from_pretrained(tmp_path / "compact")), numbers(again))


def test_a_folder_of_before_has_one_layer_for_all(tmp_path: Path) -> None:
    model = build("modernbert")
    whole = model.get_submodule("layers.0.attn.Wqkv")
    layer = FactoredLinear(32, 96, rank=5, kept=0, bias=False)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    replace_module(model, whole, layer)
    mark_compressed(model, {"name": "svd", "keep": 0.3})
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert written["format"] == 1 and "fused" not in written, "older versions read it"
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(numbers(again), numbers(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": [["q", 32], ["k", 32]]}, r"the parts of 'layers\.0\.attn\.Wqkv' have 64 outputs, the model has 96"),
        ({"parts": [["q", 32], ["q", 32]]}, "must have 'parts'"),
        ({"parts": [["q", 32], ["x", 32]]}, "must have 'parts'"),
        ({"parts": {"q": 96}}, "must have 'parts'"),
        ({"parts": []}, "must have 'parts'"),
        ({"blocks": 0}, "must have 'parts'"),
        ({"blocks": 5}, "must have rows in each of 5 blocks, got q 32, k 32, v 32"),
    ],
)
def test_a_damaged_entry_is_refused_in_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = build("modernbert")
    compress_(model, SVD(keep=0.5))
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["fused"]["layers.0.attn.Wqkv"] |= change
    file.write_text(json.dumps(config))
    with pytest.raises(LosparseError, match=message) as refused:
        type(model).from_pretrained(tmp_path)
    assert "\n" not in str(refused.value)


def test_who_names_the_whole_means_its_parts() -> None:
    model = build("modernbert")
    report = compress_(model, SVD(keep=0.5), targets=["*.Wqkv", r"re:layers\.0\.mlp\.Wi", "*.1.mlp.Wi.up"])
    assert [layer.name for layer in report.layers] == [
        *(f"layers.0.{part}" for part in ("attn.Wqkv.q", "attn.Wqkv.k", "attn.Wqkv.v", "mlp.Wi.gate", "mlp.Wi.up")),
        *(f"layers.1.{part}" for part in ("attn.Wqkv.q", "attn.Wqkv.k", "attn.Wqkv.v", "mlp.Wi.up")),
    ]
    assert matches("h.0.attn.c_attn.k", "*.c_attn") and not matches("h.0.attn.c_attn.k", "*.attn")
    assert not matches("block.0.SelfAttention.q", "*.SelfAttention"), "that is no product"


def test_what_is_refused_leaves_the_model_whole() -> None:
    model = build("modernbert")
    with torch.no_grad():
        model.get_submodule("layers.1.mlp.Wo").weight[0, 0] = float("nan")
    with pytest.raises(LosparseError, match="holds NaN"):
        compress_(model, LoSparse())
    assert not products(model)
    with pytest.raises(LosparseError, match="ignore pattern"):
        check_compressible(model, LoSparse(), ignore=["nothing"])
    check_compressible(model, LoSparse(), ignore=["*.Wqkv"])
    assert not products(model)


def test_a_shared_product_is_left_whole() -> None:
    model = build("modernbert")
    first, second = (model.get_submodule(f"layers.{block}.mlp.Wi") for block in (0, 1))
    second.weight = first.weight
    with fused_apart(model):
        assert not any("Wi" in name for name in split_products(model))
        with pytest.raises(LosparseError, match=r"'layers\.0\.mlp\.Wi' shares its weight"):
            find_targets(model)


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_product_shows_its_weight_and_bias(blocks: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 6), torch.randn(24)
    split = split_linear(weight, bias, FusedSpec((("q", 8), ("k", 4), ("v", 12)), blocks))
    assert (split.in_features, split.out_features, split.weight.dtype) == (6, 24, torch.float32)
    assert torch.equal(split.weight + 0, weight) and split.bias is not None and torch.equal(split.bias + 0, bias)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(split(x), nn.functional.linear(x, weight, bias))
    with pytest.raises(LosparseError, match="can be read, not written"):
        split.weight.zero_()
    assert split_linear(weight, None, split.fused).bias is None


def test_parts_train_as_the_whole_did() -> None:
    model = build("gpt2")
    model.get_submodule("h.0.attn.c_attn").weight.requires_grad_(False)
    with fused_apart(model):
        part = model.get_submodule("h.0.attn.c_attn.q")
        assert not part.weight.requires_grad and part.bias.requires_grad
