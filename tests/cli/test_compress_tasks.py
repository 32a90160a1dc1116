"""`losparse compress`: other tasks, fewer blocks, no method, adapters, hidden states."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from losparse.pipeline.work import work_path

from .conftest import FEW, Command, Sources, StopAt, make_model, make_texts, make_tokenizer, nothing_written

STEPS = ("--max-steps", 4, "--no-freeze-embeddings")


def report_of(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / "losparse_report.json").read_text())


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A model of four blocks; the third adds nothing, since a normalised state stays as it is when normalised again."""
    model = make_model(num_hidden_layers=4)
    for name, parameter in model.bert.encoder.layer[2].named_parameters():
        if "output.dense" in name:
            torch.nn.init.zeros_(parameter)
    model.save_pretrained(tmp_path / "deep")
    make_tokenizer().save_pretrained(tmp_path / "deep")
    return tmp_path / "deep"


# Tasks


def test_regression(compress_into: Any, tmp_path: Path, losparse: Command) -> None:
    file = tmp_path / "scores.csv"
    rows = (f"{text},{4.5 if label == 'good' else -0.5}\n" for text, label in make_texts(64, 0))
    file.write_text("text,score\n" + "".join(rows))
    done = compress_into("--task", "regression", *FEW, train=file, validation=file)
    assert done.code == 0, done.err
    names = [line.split()[1] for line in done.out.splitlines() if line.startswith("validation ")]
    assert names == ["pearson:", "spearman:", "mse:", "loss:"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "LABEL_0"})
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model(torch.tensor([[2, 5, 3]])).logits.shape == (1, 1)


def test_a_classifier_may_start_from_a_regression(
    compress_into: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(num_labels=1, problem_type="regression").save_pretrained(tmp_path / "scores")
    make_tokenizer().save_pretrained(tmp_path / "scores")
    done = compress_into(*FEW, model=tmp_path / "scores")
    assert done.code == 0, done.err
    assert "validation matthews" in done.out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert "(regression, outputs: 1) is replaced by a new one of 2 for text-classification" in caplog.text


@pytest.mark.parametrize(
    ("settings", "flags", "words"),
    [
        (
            {"problem_type": "multi_label_classification"},
            [],
            [
                "any number of classes a text",
                "text-classification is about one class a text",
                "train it for multi-label-classification (--task)",
                "without --train",
            ],
        ),
        ({"problem_type": "regression"}, [], ["gives numbers", "set problem_type in its config.json"]),
        (
            {"num_labels": 1, "problem_type": "multi_label_classification"},
            ["--task", "regression", "--label-column", "label"],
            ["any number of classes", "to 'regression'"],
        ),
    ],
)
def test_a_head_for_another_problem_is_not_taken_for_this_one(
    compress_into: Any, sources: Sources, tmp_path: Path, settings: dict[str, Any], flags: list[str], words: list[str]
) -> None:
    """It has as many outputs as training needs: it would be trained on as something else, and saved as that."""
    make_model(**settings).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    train = sources.train
    if flags:
        train = tmp_path / "scores.csv"
        train.write_text("text,label\n" + "".join(f"{text},{len(text)}\n" for text, _ in make_texts(64, 0)))
    compress_into(*FEW, *flags, model=tmp_path / "other", train=train, validation=train).refused(*words)
    if not flags:
        teacher = ("--teacher", tmp_path / "other", "--distill-weight", 0.5)
        compress_into(*FEW, *teacher).refused("the teacher", *words[:1])
    assert nothing_written(tmp_path)


def test_a_causal_model_learns_from_plain_text(compress_into: Any, tmp_path: Path, decoder: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(text for text, _ in make_texts(128, 0)))
    flags = ("--task", "causal-lm", *FEW, "--keep-layers", 2, "--max-length", 8)
    done = compress_into(*flags, model=decoder, train=file, validation=None)
    assert done.code == 0, done.err
    report = report_of(tmp_path)
    assert report["metrics"]["perplexity"] == pytest.approx(math.exp(report["metrics"]["loss"]))
    assert "validation perplexity" in done.out and "accuracy" not in done.out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (model.config.num_hidden_layers, model.config.losparse_kept_layers) == (2, [1, 2])
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, pad_token_id=0).shape[1] >= 3


def test_a_causal_model_recovers_from_its_dense_self(
    compress_into: Any, losparse: Any, tmp_path: Path, decoder: Path
) -> None:
    """What its training measures in the end is what `losparse eval` says of the folder."""
    train, held_out = tmp_path / "train.txt", tmp_path / "held-out.txt"
    train.write_text("\n".join(text for text, _ in make_texts(96, 0)))
    held_out.write_text("\n".join(["the film was a story"] * 8))
    flags = ("--task", "causal-lm", *STEPS, "--method", "rom", "--keep", 0.6, "--max-length", 8)
    recovery = ("--teacher", decoder, "--distill-weight", 1.0, "--lora-rank", 2, "--gradient-accumulation", 2)
    done = compress_into(*flags, *recovery, model=decoder, train=train, validation=held_out)
    assert done.code == 0, done.err
    measured = report_of(tmp_path)["metrics"]
    done = losparse("eval", tmp_path / "out", "--texts", held_out, "--window", 8, "--json", tmp_path / "eval.json")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "eval.json").read_text())["texts"]
    assert told["tokens"] % 8 == 0, "no block is left out of training's"
    assert told["loss"] == pytest.approx(measured["loss"], rel=1e-5)  # fp32, in other batches


def test_what_a_causal_model_cannot_learn_from_is_refused(
    compress_into: Any, tmp_path: Path, decoder: Path, sources: Sources
) -> None:
    flags = ("--task", "causal-lm", *STEPS, "--method", "none")
    compress_into(*flags, "--label-column", "label", model=decoder).refused("--label-column", "causal-lm")
    file = tmp_path / "short.txt"
    file.write_text("the film\na plot")
    compress_into(*flags, model=decoder, train=file, validation=file).refused("max_length", "8 tokens", "got 16")
    # BERT looks at both sides, so it would learn to copy
    compress_into(*flags, model=sources.model).refused("sees the tokens", "decoder")
    assert nothing_written(tmp_path)


# Depth and no method


def test_fewer_blocks_without_a_method(compress_into: Any, tmp_path: Path, deep: Path) -> None:
    done = compress_into(*STEPS, "--method", "none", "--keep-layers", 2, model=deep)
    assert done.code == 0, done.err
    report = report_of(tmp_path)
    assert report["recipe"]["method"] == {"name": "none"} and report["recipe"]["keep_layers"] == 2
    assert (report["compression"]["share"], report["compression"]["layers"]) == (1.0, [])
    assert report["kept_layers"] == [1, 3]
    assert report["compression"]["model_parameters"] < report["source_parameters"]
    lines = done.out.splitlines()
    assert "blocks kept: 1, 3" in lines
    assert not any(line.startswith("layers, parameters") for line in lines)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2 and "quantization_config" not in config
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sum(parameter.numel() for parameter in model.parameters()) == report["compression"]["model_parameters"]


def test_blocks_by_number_and_by_importance(compress_into: Any, tmp_path: Path, deep: Path) -> None:
    assert compress_into(*FEW, "--keep-layers", 0, 3, model=deep).code == 0
    report = report_of(tmp_path)
    assert report["kept_layers"] == [0, 3] and len(report["compression"]["layers"]) == 12
    done = compress_into(*FEW, "--keep-layers", 3, "--keep-layers-by", "importance", "--overwrite", model=deep)
    assert done.code == 0, done.err
    assert report_of(tmp_path)["kept_layers"] == [0, 1, 3]


def test_fewer_neurons_then_a_method_that_trains(compress_into: Any, tmp_path: Path, deep: Path) -> None:
    done = compress_into(*FEW, "--keep-layers", 2, "--keep-neurons", 0.5, "--keep-neurons-by", "norm", model=deep)
    assert done.code == 0, done.err
    kept, dense = report_of(tmp_path)["kept_neurons"]
    assert kept == dense // 2 and f"neurons kept: {kept} of {dense} in every block" in done.out
    # Every line of the table is about the original: four blocks of 4 x 32 x 32 and 2 x 32 x 64.
    named = "layers and what was dropped of them, parameters"
    row = next(line for line in done.out.splitlines() if line.startswith(named)).removeprefix(named).split()
    stored = report_of(tmp_path)["compression"]["parameters"]
    assert row == [f"{4 * (4 * 32 * 32 + 2 * 32 * 64):,}", f"{stored:,}", f"{stored / 32768:.1%}"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.intermediate_size == kept and model.config.num_hidden_layers == 2


def test_targets_are_looked_for_in_the_blocks_that_stay(compress_into: Any, tmp_path: Path, deep: Path) -> None:
    compress_into(*FEW, "--keep-layers", 2, "--targets", "*.layer.3.*", model=deep).refused("'*.layer.3.*'", "matches")
    assert nothing_written(tmp_path)


def test_a_shallow_student_imitates_the_hidden_states(compress_into: Any, tmp_path: Path, deep: Path) -> None:
    flags = (*FEW, "--keep-layers", 2, "--teacher", deep, "--distill-hidden", 2)
    assert compress_into(*flags, model=deep).code == 0
    make_model(hidden_size=16).save_pretrained(tmp_path / "thin")
    compress_into(*FEW, "--overwrite", "--teacher", tmp_path / "thin", "--distill-hidden", 2).refused(
        "hidden states of 32 elements", "got 16"
    )


# Adapters


def test_a_resumed_training_of_adapters_gives_the_same_weights(
    compress_into: Any, losparse: Command, sources: Sources, tmp_path: Path
) -> None:
    flags = ("--method", "svd", "--keep", 0.5, "--lora-rank", 2, "--max-steps", 12, "--save-steps", 5)
    assert compress_into(*flags, callbacks=[StopAt(8)]).code == 130
    done = compress_into(*flags, "--resume")
    assert done.code == 0, done.err
    files = ("--train", sources.train, "--validation", sources.validation)
    assert losparse("compress", sources.model, tmp_path / "straight", *files, *flags).code == 0
    resumed, straight = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "straight"))
    assert not any("lora" in name or "base_layer" in name for name in straight)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert work_path(tmp_path / "out").exists() is False
