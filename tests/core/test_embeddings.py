"""Compact embedding tables: what they store, who reads them, and that a checkpoint gives them back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from losparse import SVD, LoSparse, compact_, compress_, compress_embeddings_
from losparse.layers.casting import cast_
from losparse.layers.embedding import CompactTable, TiedHead, TiedTable, compact_table
from losparse.layers.table import TableSpec
from losparse.models.embeddings import freeze_embeddings
from losparse.models.report import dense_report, report
from losparse.models.tables import compact_tables, stored_parameters
from losparse.saving.contents import inspect_folder
from losparse.saving.folder import read_checkpoint, stored_tables
from losparse.saving.outputs import check_outputs, read_record

from .conftest import TINY, batches, build_bert, outputs

IDS = torch.arange(3, 75).reshape(2, 36)


def _bert_lm() -> Any:
    return BertForMaskedLM(BertConfig(**TINY))


def _gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=40))


def _llama() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=100, tie_word_embeddings=True))


def _t5() -> Any:
    return T5ForConditionalGeneration(T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=100))


BUILDERS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "bert": (_bert_lm, BertModel, "bert.embeddings.word_embeddings"),
    "gpt2": (_gpt2, GPT2Model, "transformer.wte"),
    "llama": (_llama, None, "model.embed_tokens"),
    "t5": (_t5, T5EncoderModel, "shared"),
}
WAYS: dict[str, dict[str, Any]] = {
    "int8": {},
    "rank": {"int8": False, "rank": 0.5},
    "both": {"rank": 0.5},
}


def _built(family: str) -> Any:
    torch.manual_seed(0)
    return BUILDERS[family][0]().eval()


@torch.no_grad()
def _run(model: Any) -> torch.Tensor:
    inputs = {"input_ids": IDS}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = IDS
    found: torch.Tensor = model(**inputs)[0]
    return found


def _with_dense_tables(model: Any, dense: Any) -> Any:
    """Return the dense model with the values of the compact tables of the other one; what is tied follows."""
    for name, table in compact_tables(model).items():
        dense.get_submodule(name).weight.data.copy_(table.dense_weight())
    return dense


def test_rows_in_8_bits_are_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    table = compact_table(weight, int8=True)
    assert table.scale is not None and table.rows.dtype == torch.int8
    # Half a step, and the rounding of the division and of the product.
    assert ((table.dense_weight() - weight).abs() <= table.scale[:, None] * (0.5 + 1e-4)).all()
    assert torch.equal(table.dense_weight()[3], torch.zeros(8)), "a row of zeros stays one"
    assert int(table.rows.abs().max()) == 127


def test_a_lower_rank_keeps_what_the_counts_say_is_read() -> None:
    random = torch.Generator().manual_seed(0)
    often, rare = torch.randn(2, 8, generator=random), torch.randn(30, 8, generator=random)
    weight = torch.cat([often, rare])
    counts = torch.tensor([10**8] * 2 + [0] * 30)
    plain, weighted = (compact_table(weight, int8=False, rank=2, counts=each) for each in (None, counts))
    # Two rows that outweigh all others by 1e8 are spanned by two directions but for a share of 1e-4 of the others.
    assert float((weighted.dense_weight()[:2] - often).abs().max()) < 1e-2
    assert float((plain.dense_weight()[:2] - often).abs().max()) > 0.1


def test_a_whole_rank_is_exact() -> None:
    weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    # Orthonormal directions in fp32: each number is off by a few roundings of the largest, about 3.
    torch.testing.assert_close(compact_table(weight, int8=False, rank=8).dense_weight(), weight, rtol=0, atol=5e-6)


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("way", WAYS)
def test_outputs_are_those_with_the_dequantised_table(family: str, way: str) -> None:
    dense = _built(family)
    model = copy.deepcopy(dense)
    compress_embeddings_(model, **WAYS[way])
    assert not any(type(module) is nn.Embedding and min(module.weight.shape) >= 16 for module in model.modules())
    # The same numbers are multiplied in another order where a factor widens rows after the lookup.
    torch.testing.assert_close(_run(model), _run(_with_dense_tables(model, dense)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_stores_a_table_once_and_opens_again(family: str, way: str, tmp_path: Path) -> None:
    model = _built(family)
    compress_embeddings_(model, **WAYS[way])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    opened, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(_run(opened.eval()), _run(model))
    checkpoint = read_checkpoint(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1, "shards, so that both ways of reading are seen"
    assert set(stored_tables(checkpoint)) == set(compact_tables(model))
    large = [shape for shape in checkpoint.shapes.values() if len(shape) == 2 and shape[0] == 100 and shape[1] > 1]
    assert len(large) == 1, "heads and tables that are tied store nothing"
    assert checkpoint.parameters == stored_parameters(model)
    assert checkpoint.config["quantization_config"]["format"] == 4
    record = read_record(tmp_path)
    assert record is not None
    check_outputs(opened, record, "the folder")


@pytest.mark.parametrize("family", [name for name, (_, bare, _) in BUILDERS.items() if bare is not None])
def test_the_bare_model_opens_from_the_folder_of_one_with_a_head(family: str, tmp_path: Path) -> None:
    _, bare, name = BUILDERS[family]
    model = _built(family)
    compress_embeddings_(model)
    model.save_pretrained(tmp_path)
    opened = bare.from_pretrained(tmp_path)
    ours, theirs = compact_tables(model)[name], next(iter(compact_tables(opened).values()))
    assert torch.equal(ours.rows, theirs.rows)


def test_a_head_that_is_made_anew_reads_the_rows_of_the_bare_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bare = BertModel(BertConfig(**TINY))
    compress_embeddings_(bare)
    bare.save_pretrained(tmp_path)
    opened = BertForMaskedLM.from_pretrained(tmp_path)
    assert isinstance(opened.cls.predictions.decoder, TiedHead)
    assert opened.cls.predictions.decoder.bias is opened.cls.predictions.bias
    assert torch.equal(opened.cls.predictions.decoder.weight + 0, bare.embeddings.word_embeddings.dense_weight())


def test_tables_of_an_encoder_decoder_read_one() -> None:
    model = _built("t5")
    compress_embeddings_(model)
    assert isinstance(model.shared, CompactTable) and isinstance(model.lm_head, TiedHead)
    assert isinstance(model.encoder.embed_tokens, TiedTable) and model.decoder.embed_tokens.table is model.shared
    block = model.encoder.block[0].layer[0].SelfAttention
    assert type(block.relative_attention_bias) is nn.Embedding, "distances are no words"
    model.tie_weights()  # as a user may: there is nothing left to tie
    assert isinstance(model.lm_head, TiedHead)


def test_a_dtype_does_not_widen_rows() -> None:
    model = build_bert()
    compress_embeddings_(model)
    table = model.bert.embeddings.word_embeddings
    assert cast_(model, torch.bfloat16)
    assert table.rows.dtype == torch.int8 and table.scale.dtype == table.weight.dtype == torch.bfloat16
    assert table(IDS).dtype == torch.bfloat16 and outputs(model).dtype == torch.bfloat16
    assert model.float().bert.embeddings.word_embeddings.rows.dtype == torch.int8


def test_a_dtype_that_loses_scales_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    model = build_bert()
    model.bert.embeddings.word_embeddings.weight.data[5] *= 1e-6
    compress_embeddings_(model)
    assert not cast_(model, torch.float16)
    assert "scales of its rows would be lost" in caplog.text


def test_autocast_and_gradients_pass_by_the_rows() -> None:
    model = build_bert().train()
    compress_embeddings_(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batches(1)[0]).loss
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "encoder" in n)
    assert not any("word_embeddings" in name for name, _ in model.named_parameters())


def test_factors_of_a_table_are_frozen_with_the_embeddings() -> None:
    model = _built("gpt2")
    compress_embeddings_(model, int8=False, rank=0.5)
    freeze_embeddings(model)
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.startswith(("transformer.wte", "lm_head")))
    assert all(p.requires_grad for n, p in model.named_parameters() if ".h." in n)


@pytest.mark.parametrize("before", [True, False])
def test_layers_are_compressed_before_or_after(before: bool, tmp_path: Path) -> None:
    model = build_bert()
    if before:
        compress_embeddings_(model)
    compress_(model, SVD(keep=0.5))
    if not before:
        compress_embeddings_(model)
    said = report(model)
    assert set(said.embeddings) == {"bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings"}
    assert said.model_parameters == stored_parameters(model)
    assert said.coverage is not None and not any("emb" in left.name for left in said.coverage.left)
    model.save_pretrained(tmp_path)
    opened = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(outputs(opened), outputs(model))
    contents = inspect_folder(tmp_path)
    assert contents.model_parameters == said.model_parameters
    assert contents.coverage is not None and contents.coverage.linear == said.coverage.linear


def test_training_forms_become_small_beside_compact_tables(tmp_path: Path) -> None:
    model = build_bert()
    compress_embeddings_(model)
    compress_(model, LoSparse(keep=0.5))
    model.save_pretrained(tmp_path)  # as a Trainer does on its way
    opened = type(model).from_pretrained(tmp_path)
    assert isinstance(opened.bert.embeddings.word_embeddings, CompactTable)
    compact_(model)
    assert model.config.quantization_config.embeddings, "what was compact before is said on"


def test_a_folder_may_have_compact_tables_alone(tmp_path: Path) -> None:
    model = build_bert()
    compress_embeddings_(model)
    model.save_pretrained(tmp_path)
    contents = inspect_folder(tmp_path)
    assert contents.kind == "compressed checkpoint" and not contents.layers
    assert contents.model_parameters == dense_report(model).model_parameters
    opened = type(model).from_pretrained(tmp_path)
    compress_(opened, SVD(keep=0.5))
    assert compact_tables(opened), "a model of compact tables alone may be compressed further"


def test_small_tables_and_what_does_more_than_look_up_stay() -> None:
    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 2

    model = nn.Sequential()
    model.words, model.types, model.scaled = nn.Embedding(50, 16), nn.Embedding(2, 16), Scaled(50, 16)
    assert compress_embeddings_(model) == {"words": TableSpec(50, 16, 0, 8)}


def test_a_rank_that_saves_nothing_keeps_the_width() -> None:
    model = nn.Sequential()
    model.words, model.positions = nn.Embedding(100, 32), nn.Embedding(20, 32)
    # 16 x (20 + 32) = 832 numbers are not fewer than 640; 16 x (100 + 32) = 2,112 are fewer than 3,200.
    found = compress_embeddings_(model, rank=0.5)
    assert found == {"words": TableSpec(100, 32, 16, 8), "positions": TableSpec(20, 32, 0, 8)}


def test_the_file_holds_a_fourth(tmp_path: Path) -> None:
    model = build_bert()
    model.save_pretrained(tmp_path / "dense")
    compress_embeddings_(model)
    model.save_pretrained(tmp_path / "small")
    with safe_open(tmp_path / "small" / "model.safetensors", "pt") as file:
        rows = file.get_tensor("bert.embeddings.word_embeddings.rows")
    assert rows.dtype == torch.int8
    saved = read_checkpoint(tmp_path / "dense").file_bytes - read_checkpoint(tmp_path / "small").file_bytes
    # 140 rows of 32: 3 of 4 bytes less each, and 4 for a scale; the header grew by less than 4,000.
    assert 0 < 140 * (3 * 32 - 4) - saved < 4000
