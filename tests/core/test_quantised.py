"""A compressed model computes as transformers computes quantised ones, in memory as after it was opened again."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, JambaConfig, JambaModel

from losparse import ROM, SVD, LoSparse, LosparseError, compress_
from losparse.random_factors import random_factors_

IDS = torch.arange(3, 21).reshape(2, 9)


def jamba() -> JambaModel:
    """A block of Jamba that multiplies by the weight of `dt_proj` itself, unless the model counts as quantised."""
    torch.manual_seed(0)
    config = JambaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=1,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
        initializer_range=0.3,
    )
    return JambaModel(config).eval()


@pytest.mark.parametrize(
    "compress",
    [lambda model: compress_(model, SVD(keep=0.5)), lambda model: random_factors_(model, LoSparse(keep=0.5))],
    ids=["compress_", "random_factors_"],
)
def test_the_same_numbers_in_memory_and_reopened(compress, tmp_path):
    model = jamba()
    compress(model)
    with torch.no_grad():
        before = model(IDS).last_hidden_state
        model.save_pretrained(tmp_path)
        after = AutoModel.from_pretrained(tmp_path).eval()(IDS).last_hidden_state
    assert torch.equal(before, after)


def test_calibration_sees_layers_that_only_quantised_models_call():
    model = jamba()
    report = compress_(model, ROM(keep=0.5), [{"input_ids": IDS}])
    assert any(layer.name.endswith("dt_proj") for layer in report.layers)


def test_a_model_that_could_not_be_compressed_computes_as_before():
    model = jamba()
    with pytest.raises(LosparseError):
        compress_(model, ROM(keep=0.5), [])
    assert not hasattr(model.config, "_is_quantized")
