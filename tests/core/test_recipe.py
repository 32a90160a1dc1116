"""Recipes as data: every field checked, unknown keys refused."""

from __future__ import annotations

import itertools
import json
import re
from types import MappingProxyType

import pytest

from losparse import SVD, LoSparse, OneShotLoSparse, Recipe, Training
from losparse.errors import LosparseError

from ..mutations import VALUES, places, spoiled


def test_round_trip():
    recipe = Recipe(
        task="token-classification",
        method=LoSparse(keep=0.4, low_rank=0.1, structure="foldable"),
        training=Training(epochs=2, distill_weight=0.5),
        targets=("re:.*query",),
        ignore=("*.layer.0.*",),
        keep_layers=(0, 2),
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_no_method_and_a_number_of_blocks_round_trip():
    recipe = Recipe(
        task="regression",
        method=None,
        keep_layers=3,
        keep_layers_by="importance",
        keep_neurons=0.5,
        keep_neurons_by="norm",
        embeddings="int8",
        embedding_rank=0.5,
    )
    assert recipe.to_dict()["method"] == {"name": "none"}
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_missing_keys_take_their_defaults():
    assert Recipe.from_dict({"method": {"name": "svd", "keep": 0.5}}) == Recipe(method=SVD(keep=0.5))
    assert Recipe.from_dict(MappingProxyType({"task": "regression"})) == Recipe(task="regression"), "any mapping"


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_reads_files(tmp_path, suffix):
    path = tmp_path / f"recipe{suffix}"
    path.write_text(
        '{"training": {"epochs": 1}}' if suffix == ".json" else "training:\n  epochs: 1\nignore: ['*.key']\n"
    )
    assert Recipe.read(path).training.epochs == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"colour": 1}, "^unknown key 'colour'; allowed: task, method"),
        ({"training": {"lr": 1}}, "^unknown key 'training.lr'; allowed: epochs"),
        (
            {"method": {"name": "losparse", "rank": 3}},
            "'method.rank' of 'losparse'; did you mean 'low_rank'",
        ),
        ({"task": "poetry"}, "task must be one of text-classification"),
        ({"training": []}, "training must be a table"),
        ({"targets": "query"}, "targets must be a list of name patterns"),
        ({"training": {"epochs": 0}}, "^training.epochs must be a number above 0, got 0$"),
        ({"training": {"warmup_share": 2}}, r"^training.warmup_share must be a number in \[0, 1\], got 2$"),
        ({"training": {"seed": -1}}, r"training.seed must be a whole number in \[0, 4294967295\], got -1"),
        ({"training": {"seed": 2**32}}, r"training.seed must be a whole number in \[0, 4294967295\], got 4294967296"),
        ({"training": {"batch_size": 1e18}}, "batch_size must be a whole number of 1 or more, at most 2147483647, got"),
        ({"training": {"max_steps": 10**18}}, "of 1 or more, at most 2147483647, or null, got 1000000000000000000$"),
        ({"training": {"lora_rank": 2**31}}, "whole number of 0 or more, at most 2147483647, got 2147483648$"),
        ({"keep_layers": 1e308}, r"keep_layers must be a number of blocks, or .*, or null, got 1e\+308$"),
        ({"keep_layers": [10**400]}, r"keep_layers must be a number of blocks, or .*, or null, got \[10{70,78}\.\.\.$"),
        ({"training": {"distill_hidden": -1}}, "training.distill_hidden must be a number of 0 or more, got -1"),
        ({"training": {"lora_also": "all"}}, "lora_also must be one of nothing, head, small, got 'all'"),
        ({"training": {"lora_also": "small"}}, "lora_also 'small' does nothing at lora_rank 0; set that above 0, or"),
        ({"training": {"distill_temperature": 4}}, "distill_temperature 4 does nothing at distill_weight 0"),
        ({"training": {"lora_rank": 8}}, "lora_rank needs a one-shot method such as svd.*got LoSparse"),
        ({"method": {"name": "none", "keep": 0.5}}, "method 'none' has no settings, got keep"),
        ({"method": {"name": "none"}, "ignore": ["a"]}, "compresses no layer; leave out targets and ignore"),
        ({"keep_layers": "3"}, "keep_layers must be a number of blocks, or a list of their numbers, or null, got '3'"),
        (
            {"keep_layers": [True]},
            r"must be a number of blocks, or a list of their numbers, or null, got \[True\]",
        ),
        ({"keep_layers": []}, "keep_layers must be a number of blocks"),
        ({"keep_neurons_by": "luck"}, "keep_neurons_by must be one of error, norm, got 'luck'"),
        ({"embeddings": "int4"}, "embeddings must be one of float, int8, got 'int4'"),
        ({"embedding_rank": 1}, r"embedding_rank must be a number in \(0, 1\), or null, got 1"),
        ({"keep_neurons_by": "norm"}, "keep_neurons_by 'norm' needs a share as keep_neurons, got none"),
        ({"keep_neurons": 1.5}, r"keep_neurons must be a number in \(0, 1\], or null, got 1.5"),
        ({"keep_layers_by": "luck"}, "keep_layers_by must be one of even, importance, got 'luck'"),
        ({"keep_layers_by": "importance"}, "needs the number of blocks as keep_layers, got none"),
        ({"keep_layers_by": "importance", "keep_layers": [0]}, "as keep_layers, got a list of blocks"),
        ({"training": {"freeze_embeddings": "no"}}, "freeze_embeddings must be true or false, got 'no'"),
        ({"training": {"bf16": 0}}, "bf16 must be true or false, got 0"),
        ({"training": {"seed": 1.5}}, r"training.seed must be a whole number in \[0, 4294967295\], got 1.5"),
        ({"training": {"batch_size": True}}, "batch_size must be a whole number of 1 or more, got True"),
        ({"training": {"max_steps": "none"}}, "max_steps must be a whole number of 1 or more, or null, got 'none'"),
        ({"training": {"weight_decay": "low"}}, "weight_decay must be a number of 0 or more, got 'low'"),
        ({"training": {"epochs": None}}, "epochs must be a number above 0, got None"),
        ({"training": {"learning_rate": "1e999"}}, "learning_rate must be a finite number above 0, got '1e999'"),
        ({"training": {"learning_rate": 10**400}}, "learning_rate must be a finite number above 0, got 1000"),
        ({"keep_neurons": [0.5]}, r"keep_neurons must be a number in \(0, 1\], or null, got \[0.5\]"),
        ({"method": {"name": "losparse", "window": 2.5}}, "method.window must be a whole number of 1 or more, got 2.5"),
        ({"method": {"name": "svd", "pivots": "yes"}}, "pivots must be true or false, got 'yes'"),
        ({"method": {"name": "svd", "weights": 3}}, "method.weights must be a text, or null, got 3"),
        ({"method": {"name": ["svd"]}}, r"method.name must be one of asvd, .*, none, got \['svd'\]"),
        ({"method": {"name": "none", 1: 2}}, "method 'none' has no settings, got 1"),
        ({"method": None}, "method must be a table of keys and values, or a value such as SVD.* got None"),
        ({"targets": [b"a"]}, r"targets\[0\] must be a text, got b'a'"),
        ({"targets": 3}, "targets must be a list of name patterns, or null, got 3"),
    ],
)
def test_refuses(data, message):
    with pytest.raises(LosparseError, match=message):
        Recipe.from_dict(data)


@pytest.mark.parametrize("method", [LoSparse(), OneShotLoSparse(), None])
def test_any_wrong_value_in_any_place_is_refused_in_one_line(method):
    data = json.loads(json.dumps(Recipe(method=method, keep_layers=(0, 2)).to_dict()))
    refused = 0
    for place, value in itertools.product(places(data), VALUES):
        try:
            recipe = Recipe.from_dict(spoiled(data, place, value), "recipe.json")
        except LosparseError as error:
            refused += 1
            assert str(error).startswith("recipe.json: ") and "\n" not in str(error)
            assert not re.search("typing|pydantic|validator|dict|tuple", str(error))
        else:
            assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert refused > 400


def test_numbers_may_be_texts_since_yaml_reads_them_so(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "training: {learning_rate: 2e-4, weight_decay: 1e-2, batch_size: 8.0, max_steps: 1e2}\n"
        "method: {name: losparse, initial_share: 5e-2, window: 2e0}\nkeep_neurons: 5e-1\n"
    )
    recipe = Recipe.read(path)
    assert recipe.training == Training(learning_rate=2e-4, weight_decay=1e-2, batch_size=8, max_steps=100)
    assert recipe.method == LoSparse(initial_share=0.05, window=2)
    assert (type(recipe.training.batch_size), type(recipe.method.window)) == (int, int)
    assert recipe.keep_neurons == 0.5


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_files_are_utf_8_with_or_without_a_mark(tmp_path, suffix):
    path = tmp_path / f"recipe{suffix}"
    path.write_bytes(b'\xef\xbb\xbf{"ignore": ["caf\xc3\xa9"]}')
    assert Recipe.read(path).ignore == ("café",)
    path.write_bytes(b'{"ignore": ["caf\xe9"]}')
    with pytest.raises(LosparseError, match=f"recipe{suffix}' cannot be read: byte 0xe9 is not utf-8; save"):
        Recipe.read(path)


def test_refuses_unreadable_files(tmp_path):
    with pytest.raises(LosparseError, match="does not exist"):
        Recipe.read(tmp_path / "none.json")
    for name, text in (("a.json", "{"), ("a.yaml", "a: [")):
        (tmp_path / name).write_text(text)
        with pytest.raises(LosparseError, match="cannot be read"):
            Recipe.read(tmp_path / name)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(LosparseError, match="recipe must be a table"):
        Recipe.read(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "r.yaml",
            "method: {name: svd\n",
            "r.yaml' cannot be read: line 2: expected ',' or '}'.* while parsing",
        ),
        ("r.yaml", "# nothing\n", "r.yaml' is empty; it needs at least one of the keys task, method"),
        ("r.json", " \n", "r.json' is empty"),
        ("r.toml", "a = 1\n", "a recipe must be a .json, .yaml or .yml file, got .*r.toml'"),
        ("r.yaml", "method: losparse\n", "got 'losparse'; in a file write {name: losparse}"),
        ("r.yaml", "method: {keep: 0.3}\n", "method needs a name, one of asvd, .*, got keep"),
        ("r.yaml", "task: text-clasification\n", "got 'text-clasification'; did you mean 'text-classification'"),
    ],
)
def test_mistakes_in_files_are_said_with_the_way_out(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(LosparseError, match=said):
        Recipe.read(tmp_path / name)
