"""drop_neurons: which neurons stay, what the others take over, and that the result is an ordinary narrower model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    T5Config,
    T5Model,
)

from losparse import SVD, compress_, drop_layers, drop_neurons
from losparse.errors import LosparseError
from losparse.layers.linear import find_targets
from losparse.models.neurons import choose_neurons
from losparse.models.roles import feed_forward_parts

from .conftest import build_bert

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 60}
MODELS = {
    "deberta": DebertaV2Config(**SIZES),
    "distilbert": DistilBertConfig(dim=32, n_heads=2, n_layers=2, hidden_dim=64, vocab_size=60),
    "gpt2": GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=60, n_positions=32),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=1),
    "mpnet": MPNetConfig(**SIZES),
    "opt": OPTConfig(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=2, ffn_dim=64, vocab_size=60, word_embed_proj_dim=32
    ),
}


def batches(seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (count, 4, 12), generator=random)
    mask = torch.ones(4, 12, dtype=torch.long)
    mask[0, 7:] = 0
    return [{"input_ids": each, "attention_mask": mask} for each in ids]


def bert(**overrides):
    return build_bert(**overrides).eval()


def width(model) -> set[int]:
    layers = find_targets(model)
    return {layers[down].weight.numel() // model.config.hidden_size for _, down in feed_forward_parts(layers)}


def logits(model, inputs=None):
    with torch.no_grad():
        return model(**(inputs or batches(9, 1)[0]))[0]


@pytest.mark.parametrize("by", ["error", "norm"])
@pytest.mark.parametrize("name", MODELS)
def test_the_result_is_an_ordinary_narrower_model(name, by, tmp_path):
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(MODELS[name])).eval()
    before = next(iter(width(model)))
    parameters = sum(p.numel() for p in model.parameters())
    assert drop_neurons(model, 0.5, batches(), by=by) == before // 2
    assert width(model) == {before // 2} and model.config.losparse_kept_neurons == [before // 2, before]
    assert sum(p.numel() for p in model.parameters()) < parameters
    model.save_pretrained(tmp_path)
    again, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(logits(again.eval()), logits(model))  # the very same numbers in the very same operations
    assert again.config.losparse_kept_neurons == [before // 2, before]


def test_neurons_that_say_nothing_are_dropped_for_nothing():
    """Half the neurons are read by nobody or never change: without them, and with the bias, nothing is lost."""
    model = bert()
    for layer in model.bert.encoder.layer:
        up, down = layer.intermediate.dense, layer.output.dense
        with torch.no_grad():
            down.weight[:, : down.in_features // 4] = 0.0
            up.weight[down.in_features // 4 : down.in_features // 2] = 0.0
            up.bias[down.in_features // 4 : down.in_features // 2] = 0.7
    wanted = logits(model)
    ups = [layer.intermediate.dense.weight[layer.output.dense.in_features // 2 :] for layer in model.bert.encoder.layer]
    drop_neurons(model, 0.5, batches())
    for layer, up in zip(model.bert.encoder.layer, ups, strict=True):
        assert torch.equal(layer.intermediate.dense.weight, up)
    # fp32 rounding of weights and of a mean over 170 tokens
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)


def test_copies_take_over():
    """Every neuron twice: half of them do, but for the ridge, which is 1 % of the mean diagonal."""
    model = bert()
    for layer in model.bert.encoder.layer:
        up = layer.intermediate.dense
        with torch.no_grad():
            up.weight[1::2], up.bias[1::2] = up.weight[::2], up.bias[::2]
    wanted = logits(model)
    plain = copy.deepcopy(model)
    drop_neurons(model, 0.5, batches())
    drop_neurons(plain, 0.5, batches(), by="norm")
    error, plain_error = ((logits(each) - wanted).norm() for each in (model, plain))
    assert error < 0.2 * plain_error


@pytest.mark.parametrize("sequential", [True, False])
def test_what_is_lost_is_less_than_by_norms(sequential):
    model = bert()
    wanted = logits(model, batches()[0])
    errors = {}
    for by in ("error", "norm"):
        small = copy.deepcopy(model)
        drop_neurons(small, 0.5, batches(), by=by, sequential=sequential)
        errors[by] = float((logits(small, batches()[0]) - wanted).norm())
    assert errors["error"] < 0.7 * errors["norm"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 30), st.integers(0, 99))
def test_the_fit_is_the_minimum(kept, out, tokens, seed):
    """W' minimises E|W h - W' h_K|^2 + ridge |W' - W_K|^2: any step from it costs more."""
    random = np.random.default_rng(seed)
    width = 12
    weight = torch.from_numpy(random.normal(size=(out, width)))
    inputs = torch.from_numpy(random.normal(size=(tokens, width)))
    gram = inputs.T @ inputs / max(tokens, 1)
    stay, fitted = choose_neurons(weight, gram, kept)
    assert stay.tolist() == sorted(set(stay.tolist())) and fitted.shape == (out, kept)
    ridge = 1e-2 * float(gram.diagonal().mean()) or 1.0

    def cost(small):
        wide = torch.zeros_like(weight)
        wide[:, stay] = small
        lost = weight - wide
        return float(((lost @ gram) * lost).sum() + ridge * (small - weight[:, stay]).square().sum())

    best = cost(fitted)
    for _ in range(5):
        assert best <= cost(fitted + 1e-3 * torch.from_numpy(random.normal(size=fitted.shape))) + 1e-12


def test_numbers_are_multiples_and_all_is_nothing_to_do():
    model = bert()
    full = next(iter(width(model)))
    before = copy.deepcopy(model.state_dict())
    assert drop_neurons(model, 1.0, batches()) == full
    assert drop_neurons(model, 1.0 - 1e-9, ()) == full
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert drop_neurons(model, 0.01, batches()) == 8
    assert drop_neurons(model, 0.5, batches(), multiple=1) == 4
    assert model.config.losparse_kept_neurons == [4, full]


def test_it_composes_with_depth_and_with_methods(tmp_path):
    model = bert(num_hidden_layers=4)
    drop_layers(model, 2)
    drop_neurons(model, 0.5, batches())
    compress_(model, SVD(keep=0.5))
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(model))


def test_frozen_and_half_precision_weights_stay_so():
    model = bert().to(torch.bfloat16)
    model.bert.encoder.layer[0].requires_grad_(False)
    drop_neurons(model, 0.5, batches())
    first, second = (layer.intermediate.dense.weight for layer in model.bert.encoder.layer)
    assert first.dtype == torch.bfloat16 and not first.requires_grad and second.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0.0}, r"keep must be in \(0, 1\], got 0.0"),
        ({"by": "luck"}, "neurons are kept by 'error' or 'norm', got 'luck'"),
        ({"batches": []}, "calibration"),
    ],
)
def test_refusals_leave_the_model_alone(change, message):
    model = bert()
    before = copy.deepcopy(model.state_dict())
    options = {"keep": 0.5, "batches": batches(), **change}
    with pytest.raises(LosparseError, match=message):
        drop_neurons(model, options.pop("keep"), options.pop("batches"), **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model.config, "losparse_kept_neurons")


def test_a_failure_on_the_way_leaves_the_model_alone():
    """The second block reads NaN, when the first has been cut already."""
    model = bert()
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.output.LayerNorm.bias[3] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LosparseError, match="NaN or infinity"):
        drop_neurons(model, 0.5, batches())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    assert width(model) == {model.config.intermediate_size}


@pytest.mark.parametrize("by", ["error", "norm"])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_one_token_is_enough_for_numbers(by, scale):
    """The covariance of one token is rounding, of either sign."""
    for seed in range(4):
        model = bert(seed=seed)
        with torch.no_grad():
            for layer in model.bert.encoder.layer:
                layer.intermediate.dense.weight.mul_(scale)
        one = [{"input_ids": torch.tensor([[5 + seed]]), "attention_mask": torch.ones(1, 1, dtype=torch.long)}]
        drop_neurons(model, 0.5, one, by=by)
        assert torch.isfinite(logits(model)).all()


def test_texts_without_a_token_are_refused():
    nothing = [{**batch, "attention_mask": torch.zeros_like(batch["attention_mask"])} for batch in batches()]
    with pytest.raises(LosparseError, match="read no token"):
        drop_neurons(bert(), 0.5, nothing)


def test_models_that_cannot_be_narrower_are_refused():
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
    fused = AutoModel.from_config(ModernBertConfig(**SIZES, **ids))  # up and gate are one product
    with pytest.raises(LosparseError, match=r"must have feed-forward parts .* got none"):
        drop_neurons(fused, 0.5, batches())
    model = bert()
    compress_(model, SVD(keep=0.5))
    with pytest.raises(LosparseError, match="already compressed"):
        drop_neurons(model, 0.5, batches())
    odd = bert()
    odd.config.intermediate_size = 7
    with pytest.raises(LosparseError, match=r"cannot lose neurons: its config has none of intermediate_size, .* at 64"):
        drop_neurons(odd, 0.5, batches())
    odd.config.ffn_dim = 64  # says the width, and makes nothing
    with pytest.raises(LosparseError, match=r"cannot be made with 32 neurons a block: 'bert.* would have another"):
        drop_neurons(odd, 0.5, batches())


def test_an_encoder_and_a_decoder_are_narrowed_together():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 60}
    model = T5Model(T5Config(**sizes, decoder_start_token_id=0)).eval()
    inputs = [{**batch, "decoder_input_ids": batch["input_ids"]} for batch in batches()]
    assert drop_neurons(model, 0.5, inputs) == model.config.d_ff == 32
    assert torch.isfinite(logits(model, inputs[0])).all()
