"""What `losparse compress` refuses, before it writes anything: models, settings, files, recipes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from losparse.cli.compress import read_recipe
from losparse.cli.main import build_parser
from losparse.training.recipe import Recipe

from .conftest import FEW, Pass, Sources, edit_json, make_model, make_tokenizer, name_classes, nothing_written


def damage(model: Path, kind: str) -> None:
    weights = model / "model.safetensors"
    if kind == "no config":
        (model / "config.json").unlink()
    elif kind == "bad config":
        (model / "config.json").write_text("{")
    elif kind == "no weights":
        weights.unlink()
    elif kind == "pickle":
        weights.rename(model / "pytorch_model.bin")
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "cut header":
        weights.write_bytes(weights.read_bytes()[:50])
    elif kind == "not safetensors":
        weights.write_bytes(b"\x10\0\0\0\0\0\0\0" + b"x" * 100)
    elif kind == "empty":
        weights.write_bytes(b"")
    elif kind == "no tokenizer":
        for path in model.glob("tokenizer*"):
            path.unlink()
    elif kind == "unknown type":
        edit_json(model / "config.json", model_type="nonesuch")
    elif kind == "quantised":
        edit_json(model / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    else:
        tensors = load_file(weights)
        name = "bert.encoder.layer.1.output.dense.weight"
        if kind == "nan":
            tensors[name][3, 3] = float("nan")
        elif kind == "lacking":
            del tensors[name]
        else:
            tensors[name] = tensors[name][:, :-1].contiguous()
        save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no config", ["has no config.json"]),
        ("bad config", ["config.json' is not valid JSON"]),
        ("no weights", ["has no weights", "model.safetensors"]),
        ("pickle", ["pytorch_model.bin", "pickled weights are not read", "save_pretrained"]),
        ("truncated", ["damaged or cut short", "bytes, it has", "copy it again"]),
        ("cut header", ["damaged or cut short", "header"]),
        ("not safetensors", ["damaged or cut short", "header"]),
        ("empty", ["damaged or cut short", "header"]),
        ("no tokenizer", ["tokenizer"]),
        ("unknown type", ["cannot be opened for text-classification", "nonesuch"]),
        ("quantised", ["already quantised", "bitsandbytes", "dense model"]),
        ("nan", ["NaN or infinity in 'bert.encoder.layer.1.output.dense.weight'"]),
        ("lacking", ["lacks 1 weights", "bert.encoder.layer.1.output.dense.weight"]),
        ("shape", ["lacks 1 weights", "another shape", "bert.encoder.layer.1.output.dense.weight"]),
    ],
)
def test_unfit_models(compress_into: Any, model_copy: Path, tmp_path: Path, kind: str, words: list[str]) -> None:
    damage(model_copy, kind)
    compress_into(*FEW, model=model_copy).refused(*words)
    assert nothing_written(tmp_path)


def test_missing_and_compressed_models(compress_into: Any, whole_pass: Pass, sources: Sources, tmp_path: Path) -> None:
    compress_into(*FEW, model=tmp_path / "none").refused("does not exist", "owner/name")
    compress_into(*FEW, model=sources.train).refused("is a file")
    compress_into(*FEW, model="owner/none").refused("no model folder 'owner/none'", "hub")
    compress_into(*FEW, model=whole_pass.compressed).refused("already compressed by losparse", "dense model")
    compress_into(*FEW, "--teacher", whole_pass.onnx, "--distill-weight", 0.5).refused("is an exported ONNX folder")
    compress_into(*FEW, model=whole_pass.onnx).refused("is an exported ONNX folder", "give the checkpoint")
    assert nothing_written(tmp_path)


def test_a_model_without_a_layer_to_compress(compress_into: Any, tmp_path: Path) -> None:
    make_model(num_hidden_layers=0).save_pretrained(tmp_path / "flat")
    make_tokenizer().save_pretrained(tmp_path / "flat")
    compress_into(*FEW, model=tmp_path / "flat").refused("has no layer to compress")
    compress_into(*FEW, "--targets", "*.nonesuch").refused("'*.nonesuch'", "matches none")
    assert nothing_written(tmp_path)


# Settings


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--keep", 0], ["argument --keep: must be a number in (0, 1], got '0'"]),
        (["--keep", 1.2], ["argument --keep: must be a number in (0, 1], got '1.2'"]),
        (["--keep", "nan"], ["argument --keep: must be a number in (0, 1], got 'nan'"]),
        (["--low-rank", 2], ["argument --low-rank: must be a number in [0, 1], or a table of such numbers", "got '2'"]),
        (["--low-rank", "attention=x"], ["argument --low-rank: of 'attention' must be a number in [0, 1], got 'x'"]),
        (
            ["--low-rank", 0.1, "ffn=0"],
            ["argument --low-rank: must be one number, or KIND=NUMBER in a row, got '0.1 ffn=0'"],
        ),
        (
            ["--keep", 0.2, "--low-rank", "ffn=0", "attention=0.3"],
            ["must not exceed keep=0.2, got ffn=0 attention=0.3"],
        ),
        (["--low-rank", "atention=0.1"], ["low_rank names 'atention'", "; did you mean 'attention'?"]),
        (["--keep", 0.2, "--low-rank", 0.3], ["error: --low-rank must not exceed keep=0.2", "got 0.3"]),
        (
            ["--method", "svd", "--low-rank", 0.1],
            ["error: --low-rank is not for --method svd, which takes --keep, --allocation"],
        ),
        (["--keep", 1, "--low-rank", 1], ["break-even", "ignore="]),
        (["--max-steps", 10, "--initial-steps", 6, "--final-steps", 6], ["schedule", "6 initial + 6 final", "has 10"]),
        (["--epochs", 1, "--final-steps", 8], ["schedule", "8 final", "training has 8"]),
        (["--epochs", 0], ["argument --epochs: must be a number above 0, got '0'"]),
        (["--batch-size", -1], ["argument --batch-size: must be a whole number of 1 or more, got '-1'"]),
        (["--distill-weight", 0.5], ["--teacher", "--distill-weight", "no teacher"]),
        (["--distill-weight", 2], ["argument --distill-weight: must be a number in [0, 1], got '2'"]),
        (["--distill-hidden", 1], ["--teacher", "--distill-hidden", "no teacher"]),
        (["--keep-layers", 3], ["number of blocks to keep must be in 1..2", "got 3"]),
        (["--keep-layers", 1, 0], ["different numbers in 0..1", "in order", "got 1, 0"]),
        (
            ["--keep-layers-by", "importance"],
            ["--keep-layers-by 'importance' needs the number of blocks as --keep-layers, got none"],
        ),
        (["--method", "none", "--keep", 0.5], ["method 'none' has no settings", "keep"]),
        (["--lora-rank", 4], ["lora_rank", "one-shot", "got LoSparse"]),
        (["--task", "regression"], ["line 2", "'label' must be a finite number", "got 'b"]),
        (["--max-length", 64], ["--max-length", "32 positions", "got 64"]),
        (["--max-length", 2], ["max_length", "special tokens"]),
        (["--validation-share", 0.1], ["--validation-share", "leave it out"]),
        (["--text-column", "body"], ["no column 'body'", "text, label", "--text-column"]),
        (["--label-column", "mood"], ["no column 'mood'", "text, label"]),
    ],
)
def test_unfit_settings(compress_into: Any, tmp_path: Path, flags: list[object], words: list[str]) -> None:
    compress_into(*flags).refused(*words)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("part", "content", "words"),
    [
        ("train", "", ["is empty"]),
        ("train", "text,label\n", ["has no rows"]),
        ("train", "text,label\nthe film,good\na plot,good\n", ["one class only"]),
        ("train", "text,label\nthe film,good\n,bad\n", ["line 3", "not empty"]),
        ("validation", "", ["is empty"]),
        ("validation", "text,label\nthe film,odd\n", ["'odd'", "not seen in training", "bad, good"]),
        ("validation", "words,label\nthe film,good\n", ["no column called text", "words, label"]),
    ],
)
def test_unfit_files(compress_into: Any, tmp_path: Path, part: str, content: str, words: list[str]) -> None:
    file = tmp_path / "texts.csv"
    file.write_text(content)
    compress_into(*FEW, **{part: file}).refused("texts.csv", *words)
    assert nothing_written(tmp_path)


def test_missing_files(compress_into: Any, tmp_path: Path) -> None:
    compress_into(*FEW, train=tmp_path / "none.csv").refused("no data file", "none.csv", ".jsonl")
    compress_into(*FEW, "--recipe", tmp_path / "none.json").refused("none.json", "does not exist")


# Teachers

DISTIL = ("--distill-weight", 0.5)


def test_a_teacher_of_other_labels(compress_into: Any, model_copy: Path) -> None:
    name_classes(model_copy, "x", "y")
    compress_into(*FEW, "--teacher", model_copy, *DISTIL).refused("labels x, y", "bad, good")


def test_a_teacher_that_does_not_say_which_class_is_which(
    compress_into: Any, model_copy: Path, sources: Sources, tmp_path: Path
) -> None:
    compress_into(*FEW, "--teacher", model_copy, *DISTIL).refused("which of its classes is bad", "id2label", "ids")
    ids = tmp_path / "ids.csv"
    ids.write_text(sources.train.read_text().replace(",good", ",1").replace(",bad", ",0"))
    assert compress_into(*FEW, "--teacher", model_copy, *DISTIL, train=ids, validation=ids).code == 0


def test_a_teacher_whose_head_does_not_fit(compress_into: Any, tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path / "teacher")
    teach = (*FEW, "--teacher", tmp_path / "teacher")
    make_model().base_model.save_pretrained(tmp_path / "teacher")
    compress_into(*teach, *DISTIL).refused("has no head for text-classification", "--distill-weight 0")
    assert compress_into(*teach, "--distill-hidden", 1).code == 0, "hidden states need no head"
    make_model(num_labels=5).save_pretrained(tmp_path / "teacher")
    compress_into(*teach, *DISTIL, "--overwrite").refused("a head of 5 outputs, training needs 2")


def test_texts_are_cut_to_the_teachers_positions(compress_into: Any, tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path / "teacher")
    make_model(max_position_embeddings=8).save_pretrained(tmp_path / "teacher")
    name_classes(tmp_path / "teacher", "bad", "good")
    teach = (*FEW, "--teacher", tmp_path / "teacher", *DISTIL)
    compress_into(*teach, "--max-length", 9).refused("the teacher's 8 positions, got 9")
    done = compress_into(*teach)
    assert done.code == 0 and "longer than 8 tokens" in done.out


def test_a_training_that_diverges(compress_into: Any, tmp_path: Path) -> None:
    flags = (*FEW, "--max-steps", 6, "--learning-rate", 1e30, "--save-steps", 1)
    for resume in ([], ["--resume"]):
        compress_into(*flags, *resume).refused("training diverged: the loss is nan at step", "lower learning_rate")
        assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


# Recipes


def recipe_of(*flags: object) -> Recipe:
    arguments = ["compress", "model", "out", "--train", "f", *map(str, flags)]
    options: argparse.Namespace = build_parser(arguments).parse_args(arguments)
    return read_recipe(options)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_flags_win_over_the_recipe_and_that_over_the_defaults(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"recipe{suffix}"
    data = {
        "method": {"name": "losparse", "keep": 0.3, "low_rank": 0.1},
        "training": {"epochs": 2},
        "ignore": ["*.key"],
    }
    file.write_text(json.dumps(data))
    recipe = recipe_of("--recipe", file, "--keep", 0.5, "--no-freeze-embeddings")
    assert (recipe.method.keep, recipe.method.low_rank) == (0.5, 0.1)  # type: ignore[union-attr]
    assert (recipe.training.epochs, recipe.training.batch_size) == (2, 32)
    assert not recipe.training.freeze_embeddings
    assert recipe.ignore == ("*.key",)


def test_another_method_forgets_the_values_of_the_recipes_method(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"method": {"name": "losparse", "keep": 0.3, "low_rank": 0.1}}))
    assert recipe_of("--recipe", file, "--method", "svd").method.keep == 0.2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"training": {"epoch": 3}},
            ["line 1: unknown key 'training.epoch'; did you mean 'epochs'?", "epochs"],
        ),
        ({"modle": "x"}, ["recipe.json, line 1: unknown key 'modle'; allowed: task, method", "method"]),
        (
            {"method": {"name": "losparse", "rank": 3}},
            ["'method.rank' of 'losparse'; did you mean 'low_rank'?"],
        ),
        ({"method": {"name": "magic"}}, ["magic", "losparse"]),
        ([1], ["recipe must be a table"]),
    ],
)
def test_unfit_recipes(compress_into: Any, tmp_path: Path, data: Any, words: list[str]) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(data))
    compress_into("--recipe", file).refused(*words)
    assert nothing_written(tmp_path)
