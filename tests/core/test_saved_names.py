"""Families that transformers joins or renames on disk are saved by the model's own names, and open again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import PreTrainedModel

from losparse import SVD, LoSparse, compress_
from losparse.layers.training import training_layers
from losparse.random_factors import random_factors_

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGE = {**{key: SIZES[key] for key in list(SIZES)[:4]}, "image_size": 32, "patch_size": 8}
# Joined on disk, then renamed there, then those whose renaming would not leave their own names alone.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "nomic_bert": ("NomicBertForSequenceClassification", SIZES),
    "gte": ("GteForSequenceClassification", SIZES),
    "jina_embeddings_v3": ("JinaEmbeddingsV3Model", SIZES),
    "siglip_text": ("SiglipTextModel", SIZES),
    "vit": ("ViTForImageClassification", IMAGE),
    "dinov3_vit": ("DINOv3ViTModel", IMAGE),
}

UNEQUAL = LoSparse(keep=0.4, low_rank=0.1, structure="rows", multiple=1)
"""Every layer keeps as many rows as its scores say."""


def build(name: str) -> PreTrainedModel:
    kind, settings = FAMILIES[name]
    torch.manual_seed(0)
    model: type[PreTrainedModel] = getattr(transformers, kind)
    return model(model.config_class(**settings)).eval()


def numbers(model: PreTrainedModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    else:
        inputs = {"input_ids": torch.randint(5, 100, (2, 12), generator=generator)}
    with torch.no_grad():
        result: torch.Tensor = model(**inputs, return_dict=True)[0]
    return result


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_unequal_factors_open_again_and_again(name, tmp_path):
    model = build(name)
    random_factors_(model, UNEQUAL)
    kept = {model.get_submodule(layer).kept_count for layer in model.config.quantization_config.layers}
    assert len(kept) > 2  # or nothing would be wrong with joining them
    wanted = numbers(model)
    for place in ("first", "second"):
        model.save_pretrained(tmp_path / place)
        assert load_file(tmp_path / place / "model.safetensors").keys() <= model.state_dict().keys()
        model = type(model).from_pretrained(tmp_path / place).eval()
        assert torch.equal(numbers(model), wanted)


def test_the_bare_model_opens_from_one_with_a_head_and_back(tmp_path):
    model = build("nomic_bert")
    random_factors_(model, UNEQUAL)
    model.save_pretrained(tmp_path / "head")
    bare = type(model.base_model).from_pretrained(tmp_path / "head").eval()
    assert torch.equal(numbers(bare), numbers(model.base_model))
    bare.save_pretrained(tmp_path / "bare")
    again = type(model).from_pretrained(tmp_path / "bare").eval()
    assert torch.equal(numbers(again.base_model), numbers(bare))


@pytest.mark.parametrize("name", ["nomic_bert", "gte"])
def test_a_training_goes_on_from_a_checkpoint_by_the_same_names(name, tmp_path):
    """A Trainer resumes by `load_state_dict`, which knows the model's names only."""
    model = build(name)
    compress_(model, LoSparse(keep=0.6))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    again = type(model).from_pretrained(tmp_path)
    assert len(training_layers(again)) == len(training_layers(model))


def test_folders_of_before_open_still(tmp_path):
    """They have the names that transformers gives on disk, and no word on them in their header."""
    model = build("vit")
    compress_(model, SVD(keep=0.5))
    wanted = numbers(model)
    model.save_pretrained(tmp_path)
    quantizer, model.hf_quantizer, model._weight_conversions = model.hf_quantizer, None, None
    model.save_pretrained(tmp_path)  # as before: transformers asks nobody
    assert not load_file(tmp_path / "model.safetensors").keys() <= model.state_dict().keys()
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(numbers(again), wanted)
    assert isinstance(again.hf_quantizer, type(quantizer))
