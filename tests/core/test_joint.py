"""Layers that share a right factor against the stacked layer they stand for."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from losparse import ROM, SVD, OneShotLoSparse, compact_, compress_, inspect_folder
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.joint import SharedFactorLinear, group_with_pivots, groups_of, split
from losparse.layers.linear import find_targets, weight_of
from losparse.methods import FWSVD
from losparse.methods.one_shot.units import joint_units
from losparse.models.report import report

from ..pivoting import store_pivots_
from .conftest import batches, build_bert, build_llama
from .test_layers import random_layer

QUERY = "bert.encoder.layer.0.attention.self.query"


def stacked(rank: int = 7, kept: int = 5, bias: bool = True) -> FactoredLinear:
    return random_layer(40, 12, rank, kept, "out", bias)


@pytest.mark.parametrize(("rank", "kept", "bias"), [(7, 5, True), (7, 0, False), (12, 3, True), (0, 9, True)])
def test_split_stands_for_the_rows_of_the_stacked_layer(rank, kept, bias):
    whole = stacked(rank, kept, bias)
    parts = split(whole, [8, 20, 12])
    assert torch.equal(torch.cat([part.dense_weight() for part in parts]), whole.dense_weight())
    x = torch.randn(3, 12)
    torch.testing.assert_close(torch.cat([part(x) for part in parts], -1), whole(x))
    assert sum(part.parameter_count() for part in parts) == whole.parameter_count()
    assert [part.shares_v for part in parts] == ([True, False, True] if rank else [False] * 3)
    stored = nn.ModuleList(parts)
    assert sum(p.numel() for p in stored.parameters()) == sum(p.numel() for p in whole.parameters())
    assert sum(p.numel() for p in stored.state_dict().values() if p.dtype == torch.float32) == sum(
        p.numel() for p in whole.parameters()
    )


def test_pivots_of_a_group_save_rank_squared_once():
    parts = split(stacked(), [8, 20, 12])
    new = group_with_pivots(parts)
    assert sum(p.parameter_count() for p in new) == sum(p.parameter_count() for p in parts) - 7**2
    assert [layer.pivot_side for layer in new].count("out") == 1
    for layer, old in zip(new, parts, strict=True):
        # Sums of 7 products of coefficients that are not bounded, though of O(10) here.
        torch.testing.assert_close(layer.dense_weight(), old.dense_weight(), atol=1e-4, rtol=1e-4)
    assert all(layer.owner in new for layer in new if isinstance(layer, SharedFactorLinear))


def test_no_pivots_where_no_layer_spans_the_others():
    parts = split(random_layer(24, 12, 6, 0, "out", True), [12, 12])
    with torch.no_grad():  # each layer uses half of the rank alone
        parts[0].u[:, 3:] = 0
        parts[1].u[:, :3] = 0
    assert group_with_pivots(parts) is None


def test_factors_that_are_not_finite_are_refused_by_name():
    model = build_bert()
    compress_(model, ROM(keep=0.6, joint=True), batches(), to_train=True)
    with torch.no_grad():
        model.get_submodule(QUERY).v[0, 0] = torch.nan
    with pytest.raises(
        LosparseError, match=r"layer 'bert.*self\.query': the factors of its group hold NaN or infinity"
    ):
        store_pivots_(model)
    assert len(groups_of(model)) == 2


def test_a_copy_shares_with_its_own_owner():
    group = nn.ModuleList(split(stacked(), [8, 20, 12]))
    other = copy.deepcopy(group)
    assert other[0].owner is other[1] and group[0].owner is group[1]
    other.double()
    assert other[0].v.dtype == torch.float64


def test_what_cannot_be_shared():
    for owner in (
        FactoredLinear(4, 4, rank=0, kept=4),
        FactoredLinear(4, 4, rank=2, kept=0, pivot_side="in"),
        SharedFactorLinear(FactoredLinear(4, 4, rank=2, kept=0), 4, kept=0),
    ):
        with pytest.raises(LosparseError, match="only the whole v of a compact layer that stores it can be shared"):
            SharedFactorLinear(owner, 4, kept=0)
    with pytest.raises(LosparseError, match="joint is for every allocation but 'search'"):
        ROM(joint=True, allocation="search")
    with pytest.raises(LosparseError, match=r"joint=True runs the model .*; pass a batch"):
        compress_(build_bert(), SVD(keep=0.5, joint=True))


def test_layers_that_read_the_same_tensor_are_found():
    model = build_bert()
    units = joint_units(model, find_targets(model), batches(1)[0])
    names = [tuple(name.removeprefix("bert.encoder.layer.") for name in unit.names) for unit in units[:4]]
    attention = ("0.attention.self.query", "0.attention.self.key", "0.attention.self.value")
    assert names == [attention, ("0.attention.output.dense",), ("0.intermediate.dense",), ("0.output.dense",)]
    llama = build_llama()
    found = [
        [n.rpartition(".")[2] for n in unit.names] for unit in joint_units(llama, find_targets(llama), batches(1)[0])
    ]
    assert found[:4] == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


class Reading(nn.Module):
    """Two blocks whose only layers read the same tensor, as cross-attention reads the encoder's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"k": nn.Linear(8, 8), "v": nn.Linear(8, 8)}) for _ in range(2))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return sum(block["k"](states) + block["v"](states) for block in self.blocks)


def test_a_group_stays_within_its_block():
    model = Reading()
    units = joint_units(model, find_targets(model), {"states": torch.randn(3, 8)})
    assert [unit.names for unit in units] == [("blocks.0.k", "blocks.0.v"), ("blocks.1.k", "blocks.1.v")]


@pytest.mark.parametrize(
    "method",
    [
        ROM(keep=0.6, joint=True),
        ROM(keep=0.6, joint=True, allocation="global"),
        OneShotLoSparse(keep=0.7, joint=True, row_share=0.2, allocation="uniform"),
        FWSVD(keep=0.5, joint=True),
        SVD(keep=0.5, joint=True, pivots=False),
    ],
    ids=str,
)
def test_saved_and_opened_again(method, tmp_path: Path):
    model = build_bert()
    made = compress_(model, method, batches())
    assert len(groups_of(model)) == 2 and made.share <= method.keep
    assert made.model_parameters == sum(p.numel() for p in model.parameters())
    model.save_pretrained(tmp_path)
    ids = {k: v for k, v in batches(1)[0].items() if k != "labels"}
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**ids).logits, model.eval()(**ids).logits)
    assert report(again) == report(model)
    bare = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(bare(**ids).last_hidden_state, model.bert(**ids).last_hidden_state)
    contents = inspect_folder(tmp_path)
    assert contents.to_dict()["layer_share"] == pytest.approx(made.share)
    assert sum(layer.spec.v_of is not None for layer in contents.layers) == 4


def test_a_damaged_owner_is_named(tmp_path: Path):
    model = build_bert()
    compress_(model, ROM(keep=0.6, joint=True), batches())
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    layers = config["quantization_config"]["layers"]
    sharing = next(name for name, entry in layers.items() if "v_of" in entry)
    layers[sharing]["v_of"] = "bert.encoder.layer.0.output.dense"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LosparseError, match=r"shares the \d+x32 factor of 'bert\.encoder\.layer\.0\.output\.dense'"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_what_layers_have_in_common_is_stored_once():
    """Query, key and value of one row space: a joint factor holds it at a budget at which three factors cannot."""
    errors = {}
    for joint in (False, True):
        model = build_bert()
        attention = model.bert.encoder.layer[0].attention.self
        torch.manual_seed(0)
        common = torch.randn(10, 32)
        with torch.no_grad():
            for layer in (attention.query, attention.key, attention.value):
                layer.weight.copy_(torch.randn(32, 10) @ common / 32)
        before = {name: weight_of(layer).detach().clone() for name, layer in find_targets(model).items()}
        compress_(model, ROM(keep=0.4, joint=joint), batches())
        wanted, got = before[QUERY], model.get_submodule(QUERY).dense_weight()
        errors[joint] = float((got - wanted).norm() / wanted.norm())
    assert errors[True] < 1e-4 < 0.1 < errors[False]  # rank 10 needs 36 % of three such layers, 51 % of each


def test_trained_on_and_stored_by_pivots():
    model = build_bert()
    method = ROM(keep=0.6, joint=True)
    compress_(model, method, batches(), to_train=True)
    query, key = (model.get_submodule(QUERY.replace("query", name)) for name in ("query", "key"))
    assert query.pivot_side is None and key.v is query.v
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(**batches(1)[0]).loss.backward()
    assert query.v.grad.abs().sum() > 0
    optimizer.step()
    ids = {k: v for k, v in batches(1)[0].items() if k != "labels"}
    before = model.eval()(**ids).logits
    final = compact_(model, method)
    assert final.share <= 0.6 and {layer.spec.pivot_side for layer in final.layers} >= {"out", "in"}
    # fp32 through two blocks, with coefficients of O(10)
    torch.testing.assert_close(model(**ids).logits, before, atol=1e-4, rtol=1e-4)


def test_grouped_queries_share_a_rank_above_their_outputs():
    model = build_llama()  # 32 inputs; query 32 outputs, key and value 16 each
    dense = {name: weight_of(layer).detach() for name, layer in find_targets(model).items()}
    made = compress_(model, ROM(keep=0.9, joint=True), batches())
    layers = {layer.name: layer for layer in made.layers}
    key = layers["model.layers.0.self_attn.k_proj"]
    assert key.spec.rank > key.spec.out_features and made.share <= 0.9
    found = model.get_submodule(key.name).dense_weight()
    assert float((found - dense[key.name]).norm() / dense[key.name].norm()) < 0.3
