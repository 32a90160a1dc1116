"""A compressed model opened again gives the very numbers of the one that was saved, whatever its architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from losparse import LPAF, SVD, LoSparse, compress_
from losparse.layers.training import training_layers

TEXT = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {**TEXT, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
T5 = {**TEXT, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}

# Their attention holds tables that are computed at every load and are not in the file: causal masks, positions.
WITH_TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            **TEXT,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 32,
        },
    ),
    "gptj": ("GPTJForCausalLM", {**GPT, "rotary_dim": 8}),
    "codegen": ("CodeGenForCausalLM", {**GPT, "n_head": 4, "rotary_dim": 4}),
    "openai-gpt": ("OpenAIGPTModel", GPT),
    "imagegpt": ("ImageGPTModel", GPT),
    "reformer": (
        "ReformerModel",
        {
            **TEXT,
            "attn_layers": ["local", "lsh"],
            "hidden_size": 32,
            "attention_head_size": 16,
            "num_attention_heads": 2,
            "feed_forward_size": 64,
            "axial_pos_embds": False,
            "max_position_embeddings": 64,
            "local_attn_chunk_length": 8,
            "lsh_attn_chunk_length": 8,
            "num_buckets": 4,
            "hash_seed": 0,
            "is_decoder": False,
        },
    ),
    "swinv2": (
        "Swinv2Model",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2], "num_heads": [2], "window_size": 4},
    ),
}
# Their forward pass asks a layer for the dtype of its weight; their initialisation for the weight of a layer below.
READ_WEIGHTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT),
    "t5": ("T5EncoderModel", T5),
    "mt5": ("MT5EncoderModel", {**T5, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5EncoderModel", {**T5, "feed_forward_proj": "gated-gelu"}),
}


def build(name: str, settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    kind: type[PreTrainedModel] = getattr(transformers, name)
    return kind(kind.config_class(**settings)).eval()


def numbers(model: PreTrainedModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    else:
        inputs = {"input_ids": torch.randint(5, 100, (2, 16), generator=generator)}
    with torch.no_grad():
        result: Tensor = model(**inputs, return_dict=True)[0]
    return result


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Save and open a model while new memory holds NaN: what it holds by chance is often what was there before."""
    model.save_pretrained(folder)
    torch.use_deterministic_algorithms(True)
    try:
        again: PreTrainedModel = type(model).from_pretrained(folder)
    finally:
        torch.use_deterministic_algorithms(False)
    return again.eval()


@pytest.mark.parametrize("name", [*WITH_TABLES, *READ_WEIGHTS])
def test_reload_equals_the_saved_model(name, tmp_path):
    model = build(*(WITH_TABLES | READ_WEIGHTS)[name])
    compress_(model, SVD(keep=0.5))
    again = reloaded(model, tmp_path)
    for (key, one), (_, other) in zip(model.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(one, other), key
    assert torch.equal(numbers(again), numbers(model))


@pytest.mark.parametrize("method", [LoSparse(keep=0.6), LPAF(keep=0.4)], ids=["losparse", "lpaf"])
def test_training_forms_run_where_weights_are_read_and_reload(method, tmp_path):
    model = build(*READ_WEIGHTS["t5"])
    compress_(model, method)
    again = reloaded(model, tmp_path)
    assert torch.equal(numbers(again), numbers(model))
    model.train()(torch.arange(5, 12)[None]).last_hidden_state.sum().backward()
    assert all(layer.sparse.grad is not None for layer in training_layers(model).values())


def test_half_precision_keeps_what_t5_keeps_in_fp32(tmp_path):
    """T5 casts to the dtype of `wo`, which it keeps in fp32 whatever the model is opened in."""
    model = build(*READ_WEIGHTS["t5"])
    compress_(model, SVD(keep=0.5))
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.float16).eval()
    layer = half.encoder.block[0].layer[1].DenseReluDense
    assert (layer.wi.weight.dtype, layer.wo.weight.dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(numbers(half).float(), numbers(model), atol=0.02, rtol=0.02)  # fp16 has 11 bits
