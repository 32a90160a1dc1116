"""A folder whose outputs are not those that were saved is not exported, though the export would equal the bad load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

from losparse import SVD, compress_
from losparse.cli.main import main
from losparse_export.opening.load import load_model

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 60}


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY, initializer_range=0.2)).eval()
    compress_(model, SVD(keep=0.5))
    model.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["hidden_act"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as weights:
        metadata = weights.metadata()
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    tensors["bert.encoder.layer.0.output.dense.u"] *= -1
    save_file(tensors, file, metadata=metadata)


@pytest.mark.parametrize("task", [None, "feature-extraction"])
def test_an_unchanged_folder_opens_for_export(folder, task):
    assert load_model(folder, task).folder == folder


@pytest.mark.parametrize("change", [change_config, change_weights])
@pytest.mark.parametrize("task", [[], ["--task", "feature-extraction"]], ids=["head", "bare"])
def test_other_outputs_are_refused_with_one_line_and_nothing_written(folder, change, task, tmp_path, capfd):
    change(folder)
    assert main(["export", str(folder), str(tmp_path / "out"), *task]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "gives other outputs" in line]
    assert len(lines) == 1
    assert not (tmp_path / "out").exists()
