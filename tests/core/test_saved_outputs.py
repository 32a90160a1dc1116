"""A compressed folder carries a few numbers of its outputs, and a model that gives others is not taken for it."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMultipleChoice,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from losparse import SVD, LoSparse, compact_, compress_
from losparse.errors import LosparseError
from losparse.saving.outputs import KEY, check_outputs, read_record, record_outputs

from .conftest import TINY, build_bert


def compressed(model: PreTrainedModel) -> PreTrainedModel:
    compress_(model, SVD(keep=0.5))
    return model


def gpt_neo() -> GPTNeoForCausalLM:
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    config = GPTNeoConfig(**settings, window_size=4, vocab_size=100, max_position_embeddings=32, initializer_range=0.2)
    return GPTNeoForCausalLM(config).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    compressed(build_bert()).save_pretrained(folder)
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None
    return record


def rewrite(folder: Path, out: Path, record: str | None, **tensors: torch.Tensor) -> Path:
    """Copy a folder with another record in its header, and some tensors exchanged."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    with safe_open(folder / "model.safetensors", "pt") as file:
        known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file itself is not iterable
    metadata = {"format": "pt"} | ({} if record is None else {KEY: record})
    save_file(known | tensors, out / "model.safetensors", metadata=metadata)
    return out


def test_a_model_that_was_trained_under_autocast_is_recorded_without_it():
    model = compressed(build_bert())
    plain = record_outputs(model)
    # As accelerate's `prepare_model` does in every Trainer with bf16=True; it cannot be had twice in one process.
    model._original_forward = model.forward
    model.forward = wrapped = torch.autocast("cpu", torch.bfloat16)(model.forward)
    assert record_outputs(model) == plain
    assert model.forward is wrapped, "training goes on as before"


def test_save_pretrained_makes_the_record_and_a_load_gives_the_same_numbers(saved):
    record = record_of(saved)
    assert set(record["outputs"]) == {"BertForSequenceClassification", "BertModel"}
    assert record["tolerance"] < 1e-3
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    check_outputs(model, record, "it")
    again = record_outputs(model)
    assert again["inputs"] == record["inputs"]
    for name, numbers in record["outputs"].items():
        # Where its memory lies may change the last bits of a product; an output is O(1) here.
        assert again["outputs"][name] == pytest.approx(numbers, abs=1e-5)


def test_the_bare_model_is_checked_and_saved_with_a_record_of_its_own(saved, tmp_path):
    bare = AutoModel.from_pretrained(saved)
    check_outputs(bare, record_of(saved), "it")
    for again in (bare, AutoModelForSequenceClassification.from_pretrained(saved).bert):
        again.save_pretrained(tmp_path)
        assert set(record_of(tmp_path)["outputs"]) == {"BertModel"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_wrong_table_is_noticed_and_rounding_is_not(dtype, tmp_path):
    """The fault it is for: a causal mask that a load left unfilled."""
    compressed(gpt_neo()).to(dtype).save_pretrained(tmp_path)
    model = GPTNeoForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    check_outputs(model, record_of(tmp_path), "it")
    model.transformer.h[1].attn.attention.bias.zero_()
    with pytest.raises(LosparseError, match="gives other outputs than when it was saved"):
        check_outputs(model, record_of(tmp_path), "it")


def test_a_model_that_was_saved_in_fp64_is_the_same_in_fp32(tmp_path):
    """As every export loads it: half of the digits of fp64 are more than fp32 has."""
    compressed(build_bert()).double().save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    record = record_of(tmp_path)
    assert record["tolerance"] == pytest.approx(2**-11.5)
    for one in (record, {**record, "tolerance": 2**-26}):  # as earlier versions wrote
        check_outputs(loaded, one, "it")
    with torch.no_grad():
        loaded.bert.embeddings.position_embeddings.weight.mul_(1.1)
    with pytest.raises(LosparseError, match="gives other outputs than when it was saved"):
        check_outputs(loaded, record, "it")


def test_shards_each_carry_the_record(tmp_path):
    compressed(build_bert()).save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    check_outputs(AutoModelForSequenceClassification.from_pretrained(tmp_path), record_of(tmp_path), "it")


def test_older_folders_have_none(saved, tmp_path):
    assert read_record(rewrite(saved, tmp_path, None)) is None


def test_training_forms_have_none_until_they_are_compact(tmp_path):
    model = build_bert()
    compress_(model, LoSparse(keep=0.5))
    model.save_pretrained(tmp_path / "training")
    assert read_record(tmp_path / "training") is None
    compact_(model)
    model.save_pretrained(tmp_path / "compact")
    check_outputs(model, record_of(tmp_path / "compact"), "it")


def test_saving_while_training_leaves_the_model_and_random_numbers_as_they_were(tmp_path):
    model = compressed(build_bert()).train()
    model.bert.embeddings.eval()
    flags = [module.training for module in model.modules()]
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    model.save_pretrained(tmp_path)
    assert torch.equal(torch.rand(2), wanted)
    assert [module.training for module in model.modules()] == flags
    check_outputs(model, record_of(tmp_path), "it")  # in evaluation mode, so without dropout


T5 = T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0)


@pytest.mark.parametrize(
    "model",
    [
        T5ForConditionalGeneration(T5),
        T5ForSequenceClassification(copy.deepcopy(T5)),
        ViTForImageClassification(
            ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32)
        ),
    ],
    ids=["decoder", "decoder-classifier", "image"],
)
def test_other_inputs_are_made_up_from_the_config(model, tmp_path):
    compressed(model).save_pretrained(tmp_path)
    assert type(model).__name__ in record_of(tmp_path)["outputs"]
    check_outputs(type(model).from_pretrained(tmp_path), record_of(tmp_path), "it")


class _Dice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(())


def test_what_cannot_be_run_or_repeated_is_saved_without_and_says_so(tmp_path, caplog):
    random = compressed(build_bert())
    random.bert.embeddings.dropout = _Dice()
    choice = compressed(BertForMultipleChoice(BertConfig(**TINY)))
    for number, (model, reason) in enumerate(
        ((random, "draws random numbers"), (choice, "cannot be run on a made-up"))
    ):
        with caplog.at_level(logging.WARNING, logger="losparse.saving.outputs"):
            model.save_pretrained(tmp_path / str(number))
        assert reason in caplog.text
        assert read_record(tmp_path / str(number)) is None


def test_a_class_that_was_not_recorded_is_not_checked_and_says_so(saved, caplog):
    with caplog.at_level(logging.WARNING, logger="losparse.saving.outputs"):
        check_outputs(gpt_neo(), record_of(saved), "it")
    assert "cannot be checked as GPTNeoForCausalLM" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda record: "[]",
        lambda record: "{",
        lambda record: "[" * 100_000,
        lambda record: json.dumps({**record, "format": 2}),
        lambda record: json.dumps({**record, "tolerance": 5}),
        lambda record: json.dumps({**record, "inputs": {"input_ids": [["a"]]}}),
        lambda record: json.dumps({**record, "inputs": {"pixel_values": [1 << 40]}}),
        lambda record: json.dumps({**record, "inputs": {"input_ids": []}}),
        lambda record: json.dumps({**record, "outputs": {"BertModel": []}}),
        lambda record: json.dumps({**record, "outputs": {"BertModel": ["1"]}}),
        lambda record: json.dumps({key: record[key] for key in ("format", "tolerance")}),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(saved, tmp_path, change):
    folder = rewrite(saved, tmp_path, change(record_of(saved)))
    with pytest.raises(LosparseError, match="record of the model's outputs is damaged") as caught:
        read_record(folder)
    assert "\n" not in str(caught.value)


def test_an_input_that_the_model_has_no_row_for_is_refused_in_one_line(saved):
    record = record_of(saved) | {"inputs": {"input_ids": [[10_000]]}}
    with pytest.raises(LosparseError, match="cannot be run on the input that its outputs were recorded for"):
        check_outputs(AutoModel.from_pretrained(saved), record, "it")
