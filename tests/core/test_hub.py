"""Saving and loading through transformers' own calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from losparse import SVD, LoSparse, compact_, compress_
from losparse.errors import LosparseError
from losparse.layers.training import training_layers
from losparse.methods.losparse.algorithm import update_masks

from .conftest import build_bert

IDS = torch.arange(14).reshape(2, 7) + 5
METHOD = LoSparse(keep=0.3, low_rank=0.1, structure="foldable")


def compressed():
    model = build_bert()
    compress_(model, METHOD)
    layers = training_layers(model)
    for layer in layers.values():
        layer.score_avg.copy_(torch.rand(layer.score_avg.shape, generator=torch.Generator().manual_seed(1)))
    update_masks(layers, METHOD.families(layers, model.config), METHOD.sparse_budget(list(layers.values())))
    report = compact_(model, METHOD)
    return model, report


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compressed")
    compressed()[0].save_pretrained(folder)
    return folder


def test_opens_with_identical_outputs(saved):
    model, _ = compressed()
    again = AutoModelForSequenceClassification.from_pretrained(saved)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    for (name, one), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_opens_without_its_head_and_back(saved, tmp_path):
    base = AutoModel.from_pretrained(saved)
    model, _ = compressed()
    assert torch.equal(base(IDS).last_hidden_state, model.bert(IDS).last_hidden_state)
    base.save_pretrained(tmp_path)
    with_head = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(with_head.bert(IDS).last_hidden_state, base(IDS).last_hidden_state)


def test_the_file_is_as_small_as_the_count_says(saved):
    _, report = compressed()
    indices = sum(layer.spec.kept for layer in report.layers) * 8
    size = (saved / "model.safetensors").stat().st_size
    with safe_open(saved / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - the file itself is not iterable
        header = size - sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert size == 4 * report.model_parameters + indices + header
    assert header < 20_000


def test_saves_shards_that_open_again(tmp_path):
    model, _ = compressed()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_saving_a_loaded_model_writes_the_same_tensors(saved, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(saved).save_pretrained(tmp_path)
    first, second = (load_file(folder / "model.safetensors") for folder in (saved, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_half_precision_keeps_the_indices(saved):
    model = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.bfloat16)
    layer = model.bert.encoder.layer[0].intermediate.dense
    assert layer.u.dtype == torch.bfloat16
    assert layer.kept is None or layer.kept.dtype == torch.int64
    # bf16 keeps 8 bits; logits of this model are O(0.1)
    torch.testing.assert_close(model(IDS).logits.float(), compressed()[0](IDS).logits, atol=0.02, rtol=0.1)


def test_config_records_the_method(saved):
    entry = json.loads((saved / "config.json").read_text())["quantization_config"]
    assert entry["quant_method"] == "losparse"
    assert entry["form"] == "compact"
    assert entry["method"] == {"name": "losparse", **{k: entry["method"][k] for k in entry["method"] if k != "name"}}
    assert entry["method"]["keep"] == 0.3


def test_a_loaded_model_can_be_fine_tuned(saved, tmp_path):
    from transformers import Trainer, TrainingArguments

    from .conftest import collate, toy_items

    model = AutoModelForSequenceClassification.from_pretrained(saved)
    before = model.bert.encoder.layer[0].intermediate.dense.u.detach().clone()
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(model=model, args=args, train_dataset=toy_items(16), data_collator=collate).train()
    assert not torch.equal(before, model.bert.encoder.layer[0].intermediate.dense.u)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: q.update(format=6), "format 6, this losparse reads 1 to 5"),
        (lambda q: q.update(form="zip"), "form must be 'compact' or 'training'"),
        (lambda q: q.update(layers={}), "lists no layers"),
        (lambda q: q.update(colour="red"), r"unknown keys \['colour'\]"),
        (lambda q: q["layers"].update(ghost=next(iter(q["layers"].values()))), "'ghost', which is no linear layer"),
        (lambda q: next(iter(q["layers"].values())).update(out=99), "does not fit its own architecture"),
        (lambda q: next(iter(q["layers"].values())).pop("rank"), "is malformed"),
        (lambda q: next(iter(q["layers"].values())).update(pivots="rows"), "'pivots' must be 'out'"),
    ],
)
def test_refuses_a_damaged_config(saved, tmp_path, change, message):
    config = json.loads((saved / "config.json").read_text())
    change(config["quantization_config"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(LosparseError, match=message):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_import_losparse_is_enough_and_loads_no_torch(saved):
    code = (
        "import sys, losparse\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "from transformers import AutoModelForSequenceClassification as A\n"
        f"print(type(A.from_pretrained({str(saved)!r}).bert.encoder.layer[0].output.dense).__name__)\n"
    )
    for first in ("", "import transformers.quantizers.auto\n"):
        script = first + (
            code
            if not first
            else code.replace("assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n", "")
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
        assert done.stdout.strip() == "FactoredLinear", done.stderr[-2000:]


def test_one_shot_models_round_trip(tmp_path):
    model = build_bert()
    compress_(model, SVD(keep=0.3))
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForSequenceClassification.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_a_model_of_conv1d_layers_opens_again(tmp_path):
    """GPT-2 initialises `c_proj.weight` by name, which a factored layer does not have."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16)).eval()
    compress_(model, SVD(keep=0.5))
    model.save_pretrained(tmp_path)
    ids = torch.arange(8)[None]
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, model(ids).logits)
