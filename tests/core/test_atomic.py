"""What is refused leaves the model as it was; and a budget, or the range of a dtype, is never exceeded in silence."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from losparse import LPAF, SVD, LoSparse, compact_, compress_, drop_neurons
from losparse.errors import LosparseError
from losparse.layers.casting import cast_
from losparse.layers.factored import FactoredLinear
from losparse.layers.training import training_layers
from losparse.methods import METHODS, method_from_dict, method_to_dict

from ..pivoting import store_pivots_
from .conftest import build_bert, collate, toy_items

IDS = torch.arange(14).reshape(2, 7) + 5
LAYER = "bert.encoder.layer.1.intermediate.dense"


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Hold that a block leaves the modules and the config of a model as they are."""
    modules, config = dict(model.named_modules()), json.dumps(model.config.to_dict(), default=str)
    yield
    assert dict(model.named_modules()) == modules
    assert json.dumps(model.config.to_dict(), default=str) == config


@dataclass(frozen=True)
class Halved(SVD):
    """A method of a user's own."""

    factor_of_two: bool = True


@dataclass(frozen=True)
class Odd(SVD):
    """A method whose settings config.json cannot hold."""

    settings: Any = field(default_factory=object)


@pytest.mark.parametrize("kind", [Halved, type("Pruned", (LoSparse,), {}), type("Plain", (LPAF,), {})])
def test_a_method_that_is_not_registered_works_and_is_recorded(kind, tmp_path):
    model = build_bert()
    compress_(model, kind(keep=0.4))
    name = f"{kind.__module__}.{kind.__qualname__}"
    assert model.config.quantization_config.method["name"] == name
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)
    with pytest.raises(LosparseError, match="name must be one of"):
        method_from_dict(method_to_dict(kind(keep=0.4)))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Odd(keep=0.4), "must hold values of JSON types"),
        (SVD, "method must be a value such as SVD"),
        ("svd", "method must be a value such as SVD"),
        (METHODS, "method must be a value such as SVD"),
    ],
)
def test_what_is_no_method_is_refused_before_anything_is_changed(method, message):
    model = build_bert()
    with unchanged(model), pytest.raises(LosparseError, match=message):
        compress_(model, method)


def test_a_model_with_a_config_of_another_kind_is_compressed():
    """A plain module may call anything its config; what transformers writes there has no place in it."""
    model = build_bert().bert
    plain = nn.Module()
    plain.blocks = model.encoder.layer
    plain.config = {"width": 32}
    compress_(plain, SVD(keep=0.4))
    assert plain.config == {"width": 32}


def test_compact_changes_no_layer_where_one_cannot_be_made_small():
    model = build_bert()
    compress_(model, LPAF(keep=0.4))
    layers = list(training_layers(model).values())
    for layer in layers[:-1]:  # as training leaves them
        layer.factored.fill_(True)
    with unchanged(model), pytest.raises(LosparseError, match="not factored yet"):
        compact_(model)


def trained(dtype: torch.dtype, scale: float, only: str = "") -> Any:
    """A model after training, whose factors are so large, or so small, everywhere or in one layer."""
    model = build_bert()
    compress_(model, SVD(keep=0.5), to_train=True)
    for name, layer in model.named_modules():
        if isinstance(layer, FactoredLinear) and only in name:
            with torch.no_grad():
                layer.u *= scale
                layer.v *= scale
    return model.to(dtype)


def test_compact_refuses_a_budget_that_half_precision_cannot_meet():
    model = trained(torch.float16, 1e-3)
    message = "query' cannot be stored by pivots: .* float16.* the budget is 0.5; .* in float32"
    with unchanged(model), pytest.raises(LosparseError, match=message):
        compact_(model, SVD(keep=0.5))
    assert compact_(model.float(), SVD(keep=0.5)).share <= 0.5


def test_compact_puts_training_forms_back_where_pivots_are_refused():
    model = build_bert()
    compress_(model, LPAF(keep=0.4))
    for layer in training_layers(model).values():
        layer.factored.fill_(True)
        layer.u.data.normal_()
        layer.v.data.fill_(float("nan"))
    with unchanged(model), pytest.raises(LosparseError, match="NaN or infinity"):
        compact_(model, LPAF(keep=0.4))


def test_compact_says_so_where_nothing_better_can_be_stored(caplog):
    model = trained(torch.float32, 1e-21)  # their product is too small for fp32
    with caplog.at_level(logging.WARNING, logger="losparse.compress"):
        found = compact_(model, SVD(keep=0.5))
    assert found.share > 0.5
    assert "cannot be stored by pivots" in caplog.text and f"hold {found.share:.3f}" in caplog.text


def test_one_shot_meets_its_budget_where_half_precision_refuses_pivots():
    model = build_bert()
    with torch.no_grad():
        model.get_submodule(LAYER).weight *= 1e-6  # products this small are lost in fp16
    found = compress_(model.half(), SVD(keep=0.5))
    assert sum(layer.spec.pivot_side is None for layer in found.layers) == 1
    assert found.share <= 0.5
    assert all(layer.parameters <= 0.5 * layer.dense_parameters for layer in found.layers)


@dataclass(frozen=True)
class Loud(SVD):
    """Factors of one layer that fp16 has no numbers for."""

    def factor(self, name: str, *args: Any) -> FactoredLinear:
        layer = super().factor(name, *args)
        if name == LAYER:
            layer.u.data.fill_(1e3).mul_(1e3)
        return layer


def test_factors_beyond_the_range_of_a_dtype_are_refused_and_the_model_stays():
    model = build_bert().half()
    with unchanged(model), pytest.raises(LosparseError, match=f"u of '{LAYER}' .* beyond the range of float16"):
        compress_(model, Loud(keep=0.5))


def test_neurons_beyond_the_range_of_a_dtype_are_refused_and_the_model_stays():
    model = build_bert().half()
    with torch.no_grad():  # neurons that are all alike: half of them must do twice as much
        model.get_submodule(LAYER).weight[:] = 1e-3
        model.get_submodule("bert.encoder.layer.1.output.dense").weight.fill_(60_000.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        LosparseError, match=r"weight of 'bert.encoder.layer.1.output.dense' .* beyond the range of float16"
    ):
        drop_neurons(model, 0.5, [collate(toy_items(8))])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("scale", "reason"), [(1e4, "would have infinite numbers"), (1e-5, "relative error of")], ids=["large", "small"]
)
def test_a_cast_that_would_lose_a_layer_is_not_made_and_says_so(scale, reason, caplog):
    model = trained(torch.float32, scale, LAYER)
    store_pivots_(model)
    with caplog.at_level(logging.WARNING, logger="losparse.layers.casting"):
        assert not cast_(model, torch.float16)
    assert f"'{LAYER}' cannot be held in float16" in caplog.text and reason in caplog.text
    assert model.dtype == torch.float32


def test_a_cast_that_loses_nothing_is_made():
    model = trained(torch.float32, 1.0)
    store_pivots_(model)
    assert cast_(model, torch.float16) and model.dtype == torch.float16
