"""A rank part by kind of layer: one definition for Python, files and flags."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModel, BertConfig

from losparse import LoSparse, Recipe, StructuredPruning, compress_
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.methods import method_from_dict, method_to_dict
from losparse.methods.losparse.shares import in_words, scaled
from losparse.models.roles import kind_of

CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "intermediate_size": 96,
}
PER_KIND = {"attention": 0.1, "ffn": 0}


def ranks(method: LoSparse) -> dict[str, int]:
    """Return the ranks of a model of one block by the ends of the layers' names."""
    model = AutoModel.from_config(BertConfig(**CONFIG))
    compress_(model, method)
    return {n.split(".0.")[1]: m.rank for n, m in model.named_modules() if isinstance(m, FactoredLinear)}


@pytest.mark.parametrize(
    ("structure", "low_rank", "with_rank"),
    [
        ("foldable", 0.1, {"query", "key", "value", "attention", "intermediate", "output"}),
        ("narrow", 0.1, {"query", "key", "value", "attention"}),
        ("foldable", PER_KIND, {"query", "key", "value", "attention"}),
        ("narrow", {"ffn": 0.1}, {"intermediate", "output"}),
        ("foldable", {"*.value": 0.1}, {"value"}),
        ("foldable", {"re:.*(query|key)": 0, "attention": 0.1}, {"value", "attention"}),
        ("rows", 0, set()),
    ],
)
def test_which_layers_have_a_rank_part(structure, low_rank, with_rank):
    found = ranks(LoSparse(keep=0.5, low_rank=low_rank, structure=structure))
    short = {"attention.output.dense": "attention", "intermediate.dense": "intermediate", "output.dense": "output"}
    assert {short.get(name, name.rpartition(".")[2]) for name, rank in found.items() if rank} == with_rank


def test_the_first_pattern_wins():
    found = ranks(LoSparse(keep=0.5, low_rank={"*.key": 0.2, "*self*": 0.1, "attention": 0}))
    # 64x64: break-even at 32, so 0.2 is rank 7 and 0.1 is rank 4, both rounded up
    assert [found[f"attention.self.{name}"] for name in ("query", "key", "value")] == [4, 7, 4]
    assert found["attention.output.dense"] == 0


def test_no_rank_part_is_pruning():
    ours, pruning = LoSparse(keep=0.3, low_rank=0), StructuredPruning(keep=0.3)
    assert ranks(ours) == ranks(pruning)
    assert pruning.low_rank == 0


def test_one_definition_in_python_files_and_as_a_value():
    method = LoSparse(keep=0.3, low_rank=PER_KIND)
    read = Recipe.from_dict({"method": {"name": "losparse", "keep": 0.3, "low_rank": {"attention": "1e-1", "ffn": 0}}})
    assert read.method == method and hash(read.method) == hash(method)
    assert method_from_dict(json.loads(json.dumps(method_to_dict(method)))) == method
    given = dict(PER_KIND)
    copied = LoSparse(keep=0.3, low_rank=given)
    given["ffn"] = 0.2
    assert copied == method


def test_the_schema_takes_both():
    share = {"type": "number", "minimum": 0, "maximum": 1}
    of_methods = Recipe.json_schema()["properties"]["method"]["anyOf"]
    entry = next(each for each in of_methods if each["title"] == "losparse")["properties"]["low_rank"]
    number, table, left_out = entry["anyOf"]
    assert number == share and left_out == {"type": "null"}
    assert table["properties"] == dict.fromkeys(("attention", "ffn", "other"), share)
    assert table["additionalProperties"] == share and table["minProperties"] == 1


@pytest.mark.parametrize(
    ("low_rank", "said"),
    [
        ("much", "low_rank must be a number in [0, 1], or a table of such numbers by kind of layer (attention, ffn"),
        (True, "low_rank must be a number in [0, 1], or a table"),
        ({}, "got an empty table; write 0 for no rank part"),
        ({1: 0.1}, "low_rank must have kinds of layers or patterns as keys, got 1"),
        ({"ffn": 1.5}, "low_rank of 'ffn' must be a number in [0, 1], got 1.5"),
        ({"attention": 0.1, "ffn": 0.5}, "low_rank must not exceed keep=0.2, got attention=0.1 ffn=0.5"),
        ({"re:(": 0.1}, "pattern 're:(' is not a regular expression"),
    ],
)
def test_refused(low_rank, said):
    with pytest.raises(LosparseError) as error:
        LoSparse(keep=0.2, low_rank=low_rank)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("atention", "did you mean 'attention'?"),
        ("*.qurey", "did you mean '*.query'?"),
        ("encoder.layer.0.attention.self.quer", "did you mean 'encoder.layer.0.attention.self.query'?"),
        ("zzz", "a layer is 'encoder.layer.0.attention.self.query', for example"),
    ],
)
def test_a_name_that_no_layer_has_is_refused_with_the_nearest(key, hint):
    model = AutoModel.from_config(BertConfig(**CONFIG))
    with pytest.raises(LosparseError) as error:
        compress_(model, LoSparse(keep=0.3, low_rank={key: 0.1}))
    assert str(error.value) == (
        f"low_rank names {key!r}, which is no kind of layer (attention, ffn, other) and matches none of the 6 layers; "
        f"{hint}"
    )
    assert not any(isinstance(module, FactoredLinear) for module in model.modules())


def test_other_shares_in_the_same_proportions():
    assert scaled(0.05, 0.1) == 0.1
    assert scaled({"attention": 0.04, "ffn": 0.02}, 0.1) == pytest.approx({"attention": 0.1, "ffn": 0.05})
    assert scaled({"attention": 0}, 0.1) == {"attention": 0}
    assert in_words({"attention": 0.05, "ffn": 0}) == "attention=0.05 ffn=0"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("encoder.layer.0.attention.output.dense", "attention"),
        ("encoder.layer.0.intermediate.dense", "ffn"),
        ("encoder.layer.0.output.dense", "ffn"),
        ("layers.0.attn.Wqkv", "attention"),
        ("layers.0.mlp.Wi", "ffn"),
        ("layers.0.mlp.gate_up_proj", "ffn"),
        ("encoder.block.0.layer.1.DenseReluDense.wo", "ffn"),
        ("transformer.ffns.0.lin2", "ffn"),
        ("layers.0.conv.in_proj", "other"),
        ("layers.0.conv.out_proj", "other"),
        ("encoder.layers.0.downsample.reduction", "other"),
        ("encoder.layer.0.bottleneck.input.dense", "other"),
    ],
)
def test_kinds_of_layers(name, kind):
    assert kind_of(name) == kind
