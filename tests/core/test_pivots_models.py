"""Whole models whose low-rank parts are stored by pivots: the same outputs, saved and opened again."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from losparse import SVD, LoSparse, compress_
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.models.report import report
from losparse.models.roles import pivot_side_of
from losparse.random_factors import random_factors_

from ..pivoting import store_pivots_
from .conftest import build_bert

IDS = torch.arange(14).reshape(2, 7) + 5


def compressed_bert():
    model = build_bert()
    random_factors_(model, LoSparse(keep=0.5, low_rank=0.2, structure="foldable"))
    return model


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A BERT of rank + kept with pivots, the plain one it came from, and its folder."""
    plain, model = compressed_bert(), compressed_bert()
    assert store_pivots_(model) == {}
    folder = tmp_path_factory.mktemp("pivots")
    model.save_pretrained(folder)
    return plain, model, folder


def test_a_model_stays_the_same(stored):
    plain, model, _ = stored
    before, after = report(plain), report(model)
    assert [layer.spec.pivot_side for layer in before.layers] == [None] * 12
    sides = {layer.name.rpartition("layer.")[2][2:]: layer.spec.pivot_side for layer in after.layers}
    assert sides == {
        "attention.self.query": "out",
        "attention.self.key": "out",
        "attention.self.value": "out",
        "attention.output.dense": "in",
        "intermediate.dense": "out",
        "output.dense": "in",
    }
    assert before.parameters - after.parameters == sum(layer.spec.rank**2 for layer in before.layers)
    assert before.model_parameters - after.model_parameters == before.parameters - after.parameters
    assert after.model_parameters == sum(parameter.numel() for parameter in model.parameters())
    # fp32: two blocks of layers that differ by their rounding, logits of O(0.1)
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, atol=1e-5, rtol=1e-5)


def test_save_and_load(stored, tmp_path):
    _, model, folder = stored
    again = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    for (name, one), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    again.save_pretrained(tmp_path)
    first, second = (load_file(each / "model.safetensors") for each in (folder, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    entry = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert entry["format"] == 2 and entry["method"]["name"] == "losparse"
    assert entry["layers"]["bert.encoder.layer.0.output.dense"]["pivots"] == "in"
    half = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.bert.encoder.layer[0].output.dense.pivots.dtype == torch.int64


def test_folders_without_pivots_stay_readable_by_older_versions(stored, tmp_path):
    plain, _, _ = stored
    plain.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_config"]["format"] == 1
    for layer in config["quantization_config"]["layers"].values():
        assert layer.pop("pivots") is None
    (tmp_path / "config.json").write_text(json.dumps(config))  # as they wrote it
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, plain(IDS).logits)


def test_one_shot_models_and_other_sides():
    model, sides = build_bert(), {}
    compress_(model, SVD(keep=0.5), to_train=True)
    expected = model(IDS).logits

    def always_in(name):
        sides[name] = "in"
        return "in"

    assert store_pivots_(model, always_in) == {}
    assert {layer.name: layer.spec.pivot_side for layer in report(model).layers} == sides and len(sides) == 12
    torch.testing.assert_close(model(IDS).logits, expected, atol=1e-5, rtol=1e-5)
    layers = [module for module in model.modules() if isinstance(module, FactoredLinear)]
    store_pivots_(model, pivot_side_of)  # they have pivots: nothing to do
    assert layers == [module for module in model.modules() if isinstance(module, FactoredLinear)]


def test_layers_that_cannot_be_stored_stay_as_they_are():
    model = compressed_bert()
    name = "bert.encoder.layer.1.intermediate.dense"
    layer = model.get_submodule(name)
    layer.u.data *= 1e-4
    layer.v.data *= 1e-4
    model.half()
    left = store_pivots_(model)
    assert list(left) == [name] and "cannot be stored in float16" in left[name]
    assert model.get_submodule(name) is layer
    assert sum(found.spec.pivot_side is not None for found in report(model).layers) == 11


def test_refuses_models_in_training_form():
    model = build_bert()
    compress_(model, LoSparse(keep=0.3, low_rank=0.1))
    with pytest.raises(LosparseError, match=r"layer 'bert.encoder.layer.0.attention.self.query': .* training form"):
        store_pivots_(model)
