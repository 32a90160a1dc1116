"""One count of positions, which a model's own forward pass confirms: it takes so many tokens, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from losparse.errors import LosparseError
from losparse.models.positions import NO_LIMIT, as_limit, count_positions, text_limit
from losparse.training.opening import text_length

_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 40,
    "max_position_embeddings": 16,
}
_PADDED = {**_SIZES, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_GPT = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40}
_BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "vocab_size": 40,
}
_LED = {"max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 16, "attention_window": 4}
_CANINE = {key: value for key, value in _SIZES.items() if key != "vocab_size"}

# Those whose positions end somewhere: by a table, a buffer, or a bias of that size.
LIMITED: list[tuple[str, dict[str, Any], int]] = [
    ("Bert", _SIZES, 16),
    ("Roberta", _PADDED, 14),  # 16 rows, numbered from behind the padding row 1
    ("MPNet", {**_SIZES, "pad_token_id": 1}, 14),
    ("IBert", _PADDED, 14),  # its table is no torch Embedding
    ("Nystromformer", {**_SIZES, "num_landmarks": 16, "segment_means_seq_len": 16}, 16),  # 18 rows, from row 2 on
    ("LayoutLM", _SIZES, 16),
    ("Canine", {**_CANINE, "local_transformer_stride": 8, "downsampling_rate": 2}, 16),
    ("GPT2", _GPT, 16),
    ("GPTNeo", {**_SIZES, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]}, 16),
    ("GPTJ", {**_GPT, "rotary_dim": 4}, 16),
    ("OPT", {**_PADDED, "ffn_dim": 16, "word_embed_proj_dim": 16}, 16),  # 18 rows, numbered from 2
    ("Bart", {**_BART, "max_position_embeddings": 16}, 16),
    ("LED", {**_BART, **_LED}, 16),
    ("CLIPText", {**_PADDED, "projection_dim": 16}, 16),
    ("XLM", {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 16}, 16),
    ("Mpt", {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 16, "vocab_size": 40}, 16),
]
# Those that number tokens from each other.
UNLIMITED: list[tuple[str, dict[str, Any]]] = [
    ("T5Encoder", {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 40}),
    ("Bloom", {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40}),
    ("XLNet", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 40}),
    ("Funnel", {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16, "block_sizes": [1], "vocab_size": 40}),
]


def build(family: str, sizes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family.removesuffix('Encoder')}Config")(**sizes)
    return getattr(transformers, f"{family}Model")(config).eval()


@torch.no_grad()
def run(model: Any, length: int) -> None:
    model(input_ids=torch.full((1, length), 5))


@pytest.mark.parametrize(("family", "sizes", "count"), LIMITED, ids=[family for family, *_ in LIMITED])
def test_the_count_is_what_the_forward_pass_takes(family, sizes, count):
    model = build(family, sizes)
    assert count_positions(model) == count == text_limit(model) == text_limit(model, 10**30)
    assert text_limit(model, 9) == 9
    run(model, count)
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        run(model, count + 1)


@pytest.mark.parametrize(("family", "sizes"), UNLIMITED, ids=[family for family, _ in UNLIMITED])
def test_relative_positions_have_no_end(family, sizes):
    model = build(family, sizes)
    assert count_positions(model) is None
    assert (text_limit(model), text_limit(model, 10**30), text_limit(model, 40.0)) == (NO_LIMIT, NO_LIMIT, 40)
    run(model, 70)


def test_computed_positions_end_where_the_configuration_says():
    config = transformers.LlamaConfig(**_SIZES, num_key_value_heads=1)
    assert count_positions(transformers.LlamaModel(config)) == 16
    assert count_positions(nn.Linear(2, 2)) is None  # no configuration at all
    model: Any = nn.Linear(2, 2)
    model.config = SimpleNamespace(max_position_embeddings=True, max_seq_len=7)
    assert count_positions(model) == 7


@pytest.mark.parametrize("number", [None, True, "512", 0, -1, 10**30, float("inf"), float("nan")])
def test_what_is_no_limit_of_a_tokenizer(number):
    assert as_limit(number) is None


def test_a_training_may_ask_for_any_length_where_positions_have_no_end():
    model, limited = build(*UNLIMITED[0]), build("Bert", _SIZES)
    tokenizer: Any = SimpleNamespace(model_max_length=40)
    endless: Any = SimpleNamespace(model_max_length=10**30)
    assert text_length(model, tokenizer, 1000) == 1000
    assert (text_length(model, tokenizer, None), text_length(model, endless, None)) == (40, NO_LIMIT)
    assert text_length(model, tokenizer, None, teacher=limited) == 16
    with pytest.raises(LosparseError, match="at most the teacher's 16 positions, got 17"):
        text_length(model, tokenizer, 17, teacher=limited)
