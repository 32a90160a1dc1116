"""What every method has in common: a new one in `METHODS` is tested here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, TrainerCallback

from losparse import compact_, compress_
from losparse.cli.parser import CommandParser, add_dataclass_flags
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.training import training_layers
from losparse.methods import METHODS, method_from_dict, method_to_dict
from losparse.validation.fields import field_types, members

from .conftest import build_bert, collate, toy_items
from .test_training import train

TRAINED = [name for name, kind in METHODS.items() if kind.trains]
IDS = torch.arange(14).reshape(2, 7) + 5
DATA = [collate(toy_items(8, seed)) for seed in range(4)]


def random_weight(out: int = 24, in_: int = 16) -> torch.Tensor:
    return torch.randn(out, in_, generator=torch.Generator().manual_seed(0))


def assert_same_state(one, other):
    for (name, a), (other_name, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", TRAINED)
def test_the_layer_keeps_shape_and_bias(name):
    weight, bias = random_weight(), torch.arange(24.0)
    layer = METHODS[name](keep=0.4).start("layer", weight, bias)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    assert layer(x).shape == (3, 24)
    torch.testing.assert_close(layer.bias.data, bias)
    assert METHODS[name](keep=0.4).start("layer", weight, None).bias is None


@pytest.mark.parametrize("name", METHODS)
def test_round_trip_as_data(name):
    method = METHODS[name](keep=0.37)
    data = json.loads(json.dumps(method_to_dict(method)))
    assert data["name"] == name and data["keep"] == 0.37
    assert method_from_dict(data) == method
    with pytest.raises(LosparseError, match=f"^unknown key 'colour' of '{name}'; allowed: keep"):
        method_from_dict({**data, "colour": "red"})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("keep", [0.0, 1.5, float("nan"), True])
def test_keep_out_of_range_is_refused(name, keep):
    with pytest.raises(LosparseError, match=r"keep must be a (finite )?number in \(0, 1\]"):
        METHODS[name](keep=keep)


def test_refuses_unknown_methods_and_keys():
    names = ", ".join(sorted(METHODS))
    with pytest.raises(LosparseError, match=f"name must be one of {names}, none, got 'magic'"):
        method_from_dict({"name": "magic"})
    with pytest.raises(LosparseError, match="unknown key 'rank' of 'svd'; allowed: keep"):
        method_from_dict({"name": "svd", "rank": 4})
    with pytest.raises(LosparseError, match="unknown key 'low_rank' of 'pruning'; allowed: keep"):
        method_from_dict({"name": "pruning", "low_rank": 0.1})


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("structure", ["rows", "columns", "foldable", "narrow", None])
def test_training_starts_at_the_dense_layer(name, structure):
    kind = METHODS[name]
    if (structure is None) == ("structure" in {field.name for field in fields(kind)}):
        pytest.skip("methods with a structure are tested with each, the others once")
    weight, bias = random_weight(), torch.randn(24, generator=torch.Generator().manual_seed(3))
    options = {} if structure is None else {"structure": structure}
    layer = kind(keep=0.4, **options).start("block.output.dense", weight, bias)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    # u v + (W - u v) in fp32: rounding of O(1) numbers only
    torch.testing.assert_close(layer(x), F.linear(x, weight, bias), atol=1e-5, rtol=1e-5)
    assert layer.axis == ("out" if structure in ("rows", None) else "in")


@pytest.mark.parametrize("name", METHODS)
def test_compress_replaces_all_layers_once(name):
    model = build_bert()
    report = compress_(model, METHODS[name](keep=0.4), () if METHODS[name].trains else DATA)
    layers = [module for module in model.modules() if isinstance(module, FactoredLinear)]
    assert len(layers) == len(report.layers) == 12
    assert report.parameters == sum(layer.parameter_count() for layer in layers)
    assert model(IDS).logits.shape == (2, 2)
    assert len(training_layers(model)) == (12 if METHODS[name].trains else 0)
    assert METHODS[name].trains or report.share <= 0.4
    with pytest.raises(LosparseError, match="already compressed"):
        compress_(model, METHODS[name](keep=0.4))


@pytest.mark.parametrize("name", METHODS)
def test_callbacks_are_what_training_needs(name):
    callbacks = METHODS[name]().callbacks()
    assert isinstance(callbacks, tuple) and all(isinstance(callback, TrainerCallback) for callback in callbacks)
    assert bool(callbacks) == METHODS[name].trains


@pytest.mark.parametrize("name", METHODS)
def test_a_trained_model_meets_its_budget_and_opens_again(name, tmp_path):
    method = METHODS[name](keep=0.4)
    model, _ = train(tmp_path / "work", method, steps=20)
    model.eval()
    before = model(IDS).logits
    report = compact_(model, method)
    # Never above; below by one rank, or one step of 8 coupled groups, of every layer at most
    assert 0.3 <= report.share <= 0.4
    assert all(type(m) is FactoredLinear for m in model.modules() if isinstance(m, FactoredLinear))
    # fp32, another order of summation
    torch.testing.assert_close(model(IDS).logits, before, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "small")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert_same_state(again, model)
    assert method_from_dict(again.config.quantization_config.method) == method


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_of_training_opens_in_the_same_form(name, tmp_path):
    model = build_bert()
    compress_(model, METHODS[name](keep=0.4))
    for layer in training_layers(model).values():
        layer.mask[0] = False
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert [type(layer) for layer in training_layers(again).values()] == [
        type(layer) for layer in training_layers(model).values()
    ]
    assert_same_state(again, model)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    config = (tmp_path / "config.json").read_text()
    assert f'"trainer": "{next(iter(training_layers(model).values())).trainer}"' in config
    (tmp_path / "config.json").write_text(config.replace('"trainer": "', '"trainer": "x'))
    with pytest.raises(LosparseError, match=r"trainer of .* must be one of losparse, lpaf, got 'x"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", TRAINED)
def test_a_model_that_was_not_trained_is_not_compacted(name):
    model = build_bert()
    method = METHODS[name](keep=0.4)
    compress_(model, method)
    with pytest.raises(LosparseError, match="before the last phase of the schedule; train to the end"):
        compact_(model, method)
    assert len(training_layers(model)) == 12, "nothing was replaced"


def test_fields_of_the_same_name_are_one_flag():
    """The command line makes one flag of a name, with one type; to some methods the value may be left out."""
    found: dict[str, object] = {}
    for kind in METHODS.values():
        for name, hint in field_types(kind).items():
            given = [member for member in members(hint) if member is not type(None)]
            assert found.setdefault(name, given) == given, name
    add_dataclass_flags(CommandParser(prog="toy"), "method", *METHODS.values(), names=tuple(METHODS))


def test_methods_are_described_and_made_without_torch():
    code = (
        "import sys\n"
        "from losparse.methods import METHODS, method_from_dict\n"
        "for name in METHODS:\n"
        "    method_from_dict({'name': name, 'keep': 0.4})\n"
        "print({'torch', 'transformers'} & set(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_every_method_says_what_it_needs():
    for kind in METHODS.values():
        description = kind.description
        assert description.summary and description.cost and description.reference
        assert set(description.needs) <= {"labels", "texts", "gradients", "training"}
        assert ("training" in description.needs) == kind.trains
