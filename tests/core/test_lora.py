"""Adapters on factors: what they train, and that merging them is exact and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from losparse import ROM, SVD, LoSparse, Recipe, Training, compact_, compress_, fine_tune
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.training.adapters import attach_adapters, merge_adapters

from .conftest import build_bert, collate, toy_items

LORA = Training(max_steps=30, learning_rate=1e-2, batch_size=8, lora_rank=2)


def factored_bert():
    """A BERT whose layers have all three parts: u, v and kept rows or columns."""
    model = build_bert()
    compress_(model, LoSparse(keep=0.5, low_rank=0.2))
    for layer in model.modules():
        if hasattr(layer, "mask"):
            layer.mask[::2] = False
            layer.apply_mask()
    compact_(model)
    return model


def test_adapted_equals_merged_and_nothing_is_left():
    model, batch = factored_bert(), collate(toy_items(4))
    before = model(**batch).logits
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = attach_adapters(model, LORA)
    torch.testing.assert_close(model(**batch).logits, before)  # the second factor of an adapter starts at zero
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    during = model(**batch).logits
    assert (during - before).abs().max() > 0.01
    merge_adapters(adapted)
    # the same sums, once in the factors: fp32 rounding
    torch.testing.assert_close(model(**batch).logits, during, rtol=1e-5, atol=1e-5)
    assert model.state_dict().keys() == original.keys()
    assert all(type(m) is FactoredLinear for m in model.modules() if isinstance(m, FactoredLinear))
    assert not hasattr(model, "peft_config")
    for name, tensor in model.state_dict().items():
        part = name.rpartition(".")[2]
        if part in ("u", "v", "sparse"):
            assert torch.linalg.matrix_rank(tensor - original[name], rtol=1e-3) == 2, name
        else:
            assert torch.equal(tensor, original[name]), name


def test_a_shared_factor_has_no_adapter():
    model, batch = build_bert(), collate(toy_items(4))
    compress_(model, ROM(keep=0.6, joint=True), [batch])
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = attach_adapters(model, LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    during = model(**batch).logits
    merge_adapters(adapted)
    torch.testing.assert_close(model(**batch).logits, during, rtol=1e-5, atol=1e-5)  # as above
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, original[name])}
    attention = "bert.encoder.layer.0.attention.self"
    assert {f"{attention}.{name}.u" for name in ("query", "key", "value")} <= changed
    assert not any(f"{attention}.{name}.v" in changed for name in ("query", "key", "value"))


@pytest.mark.parametrize("also", ["nothing", "head", "small"])
def test_what_is_trained(tokenizer, tmp_path: Path, also: str):
    model = build_bert()
    compress_(model, SVD(keep=0.5, pivots=False))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model = build_bert()
    training = Training(max_steps=3, learning_rate=1e-2, lora_rank=2, lora_also=also)
    items = toy_items(32)
    result = fine_tune(
        model, tokenizer, items, items, training, output_dir=tmp_path, method=SVD(keep=0.5, pivots=False), quiet=True
    )
    assert result.compression.share <= 0.5
    end = model.state_dict()
    assert end.keys() == start.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    factors = {name for name in start if name.endswith((".u", ".v"))}
    head = {name for name in start if name.startswith("classifier.")} if also != "nothing" else set()
    small = set()
    if also == "small":
        small = {name for name in start if start[name].dim() == 1 and "embeddings" not in name}
        small = {name for name in small if not name.endswith("key.bias")}  # softmax does not see it: no gradient
    assert changed - {name for name in changed if name.endswith("key.bias")} == factors | head | small
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_recover_what_the_factors_lost(tokenizer, tmp_path: Path):
    model, items = build_bert(), toy_items(128)
    result = fine_tune(
        model,
        tokenizer,
        items,
        toy_items(64, seed=9),
        LORA,
        output_dir=tmp_path,
        method=SVD(keep=0.5, pivots=False),
        quiet=True,
    )
    assert result.metrics["accuracy"] > 0.9, "the toy task is easy"
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    batch = collate(toy_items(4))
    assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_diverged_adapters_are_not_merged():
    model = factored_bert()
    adapted = attach_adapters(model, LORA)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(LosparseError, match="diverged"):
        merge_adapters(adapted)


def test_refuses_methods_without_factors_to_stand_on(tokenizer, tmp_path: Path):
    for method, got in ((LoSparse(), "got LoSparse"), (None, "got no method")):
        with pytest.raises(LosparseError, match=f"lora_rank needs a one-shot method.*{got}"):
            Recipe(method=method, training=LORA)
        model = build_bert()
        with pytest.raises(LosparseError, match=got):
            fine_tune(
                model, tokenizer, toy_items(4), toy_items(4), LORA, output_dir=tmp_path, method=method, quiet=True
            )
        assert not any(isinstance(module, FactoredLinear) for module in model.modules()), "nothing was changed"
    with pytest.raises(LosparseError, match="need compact factored layers"):
        attach_adapters(build_bert(), LORA)
