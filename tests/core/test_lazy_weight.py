"""The weight that a factored layer shows to code that asks a linear layer for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization

from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.joint import SharedFactorLinear
from losparse.layers.training import TrainingForm
from losparse.methods.losparse.layer import FactoredLinearTraining
from losparse.methods.lpaf.layer import MixedRankLinear

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def filled(layer: FactoredLinear) -> FactoredLinear:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def layers() -> dict[str, FactoredLinear]:
    owner = filled(FactoredLinear(6, 4, rank=2, kept=2))
    return {
        "rows": owner,
        "columns": filled(FactoredLinear(6, 4, rank=2, kept=3, axis="in")),
        "pivots": filled(FactoredLinear(6, 4, rank=2, kept=0, pivot_side="out")),
        "nothing": FactoredLinear(6, 4, rank=0, kept=0),
        "shared": filled(SharedFactorLinear(owner, 4, kept=1)),
        "losparse": filled(FactoredLinearTraining(6, 4, rank=2)),
        "lpaf": filled(MixedRankLinear(6, 4, rank=2)),
    }


NAMES = list(layers())


@pytest.mark.parametrize("name", NAMES)
def test_says_what_a_linear_says(name):
    layer, dense = layers()[name], nn.Linear(6, 4)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    for fact in ("dtype", "device", "shape", "ndim", "is_cuda"):
        assert getattr(weight, fact) == getattr(dense.weight, fact), fact
    assert (layer.in_features, layer.out_features, len(weight)) == (6, 4, 4)
    assert layer.bfloat16().weight.dtype == torch.bfloat16
    assert layer.to("meta").weight.device.type == "meta"


@pytest.mark.parametrize("name", NAMES)
def test_computes_as_the_layer_does(name):
    layer = layers()[name]
    wanted = layer(X)
    for got in (F.linear(X, layer.weight, layer.bias), X @ layer.weight.T + layer.bias):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    if not isinstance(layer, TrainingForm):
        assert torch.equal(layer.weight[1:], layer.dense_weight()[1:])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "nothing"])
def test_gradients_reach_the_tensors_of_the_layer(name):
    one, other = layers()[name], layers()[name]
    one(X).square().sum().backward()
    F.linear(X, other.weight, other.bias).square().sum().backward()
    for (key, wanted), (_, got) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-4, rtol=1e-4, msg=key)


@pytest.mark.parametrize(
    "write",
    [
        lambda weight: weight.zero_(),
        lambda weight: weight.data,
        lambda weight: weight.__setitem__(0, 1.0),
        lambda weight: weight.__imul__(2),
        lambda weight: nn.init.normal_(weight),
        lambda weight: torch.add(X[:1], 1, out=weight),
    ],
)
def test_what_would_be_written_is_not_lost_in_silence(write: Any):
    with pytest.raises(LosparseError, match="can be read, not written"):
        write(layers()["rows"].weight)


def test_the_weight_is_not_a_part_of_the_module():
    layer = layers()["rows"]
    assert "weight" not in layer.state_dict()
    assert "weight" not in dict(layer.named_parameters())
    again = copy.deepcopy(layer)
    with torch.no_grad():
        layer.u.zero_()
    assert not torch.equal(again.weight + 0, layer.weight + 0)


def test_transformers_leaves_it_alone_when_it_initialises():
    layer = layers()["rows"]
    before = layer.dense_weight()
    initialization.normal_(layer.weight)
    assert torch.equal(layer.dense_weight(), before)
