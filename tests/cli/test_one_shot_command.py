"""`losparse compress` without --train: one-shot methods on texts alone, or on nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from losparse.layers.factored import FactoredLinear
from losparse.methods import ROM
from losparse.pipeline.job import CompressionJob
from losparse.pipeline.trained import prepare
from losparse.saving.folder import read_checkpoint
from losparse.training.recipe import Recipe
from losparse_runtime.contract.progress import SILENT

from .conftest import Command, Sources, full_disk, make_texts, make_tokenizer

KEEP = ("--keep", 0.5)


def report_of(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / "losparse_report.json").read_text())


def weights_of(tmp_path: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(tmp_path / "out" / "model.safetensors"))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_sentence_encoder_keeps_its_pooling(squeeze: Any, sources: Sources, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    BertModel.from_pretrained(sources.model).save_pretrained(encoder)
    make_tokenizer().save_pretrained(encoder)
    modules = [{"type": "m.Transformer", "path": ""}, {"type": "m.Pooling", "path": "1_Pooling"}]
    modules += [{"type": "m.Normalize", "path": "2_Normalize"}, {"type": "m.Odd", "path": "../outside"}]
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "sentence_roberta_config.json").write_text('{"max_seq_length": 9}')
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text("{}")
    assert squeeze("--method", "svd", *KEEP, model=encoder).code == 0
    assert json.loads((tmp_path / "out" / "modules.json").read_text()) == modules
    assert (tmp_path / "out" / "1_Pooling" / "config.json").read_text() == '{"pooling_mode_cls_token": true}'
    assert (tmp_path / "out" / "sentence_roberta_config.json").read_text() == '{"max_seq_length": 9}'
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["config.json"]


def test_half_precision_without_a_method_stays(squeeze: Any, sources: Sources, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForSequenceClassification.from_pretrained(sources.model).half().save_pretrained(half)
    make_tokenizer().save_pretrained(half)
    assert squeeze("--method", "none", "--keep-layers", 1, model=half).code == 0
    stored = weights_of(tmp_path)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_a_decoder_with_a_head_knows_what_pads(squeeze: Any, texts: Path, tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 24}
    GPT2ForSequenceClassification(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    make_tokenizer().save_pretrained(tmp_path / "gpt2")
    done = squeeze("--method", "losparse-one-shot", *KEEP, "--calibration", texts, model=tmp_path / "gpt2")
    assert done.code == 0, done.err


@pytest.mark.parametrize("method", ["rom", "asvd", "losparse-one-shot", "svd"])
def test_an_encoder_without_training(squeeze: Any, sources: Sources, tmp_path: Path, method: str) -> None:
    data = () if method == "svd" else ("--calibration", sources.train)
    done = squeeze("--method", method, *KEEP, *data, "--json", tmp_path / "report.json")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'out'}: {method}" + (" on 256 rows of text in " if data else " in "))
    assert lines[1].split() == ["dense", "compressed", "share"] and len(lines) == 7
    assert lines[5].startswith("bytes: ") and ", of which embeddings 7,424 (" in lines[5]
    assert lines[6] == "looked at: 16,384 of the model's 17,472 linear parameters (93.8%)"
    report = report_of(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["sequential"] is (None if method == "svd" else True)  # svd looks at nothing
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    stored = sum(module.parameter_count() for module in model.modules() if isinstance(module, FactoredLinear))
    assert stored == report["compression"]["parameters"]
    assert 0.4 <= report["compression"]["share"] <= 0.5  # whole ranks of tiny layers
    dense = AutoModelForSequenceClassification.from_pretrained(sources.model)
    kept = dict(dense.classifier.named_parameters())  # nothing but the layers has changed
    assert all(torch.equal(value, kept[name]) for name, value in model.classifier.named_parameters())


def test_the_report_says_what_was_done(squeeze: Any, sources: Sources, tmp_path: Path) -> None:
    flags = ("--method", "rom", *KEEP, "--no-mean", "--ignore", "*.key", "--max-length", 8, "--batch-size", 7)
    done = squeeze(*flags, "--calibration", sources.train, "--calibration-examples", 40)
    assert done.code == 0, done.err
    report = report_of(tmp_path)
    assert (report["model"], report["calibration"]) == (str(sources.model), str(sources.train))
    assert report["train"] is None and report["metrics"] == {} and report["steps"] == 0
    assert report["architecture"] == "BertForSequenceClassification"
    assert report["recipe"]["method"] == {
        "name": "rom", "keep": 0.5, "allocation": "uniform", "weights": None, "last": None, "multiple": 1,
        "pivots": True, "joint": False, "mean": False,
    }  # fmt: skip
    assert report["recipe"]["training"] == {"batch_size": 7, "seed": 0, "calibration_examples": 40}
    assert report["examples"] == {"calibration": 40} and report["max_length"] == 8 and report["sequential"] is True
    assert f"longer than 8 tokens: {report['truncated']['calibration']} of calibration" in done.out
    assert len(report["compression"]["layers"]) == 10  # of 12, but for 2 keys
    assert report["file_bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size < report["dense_file_bytes"]
    assert report["seconds"] > 0 and report["versions"].keys() >= {"losparse", "torch", "transformers"}
    before = weights_of(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(report["recipe"]))
    again = ("--recipe", tmp_path / "recipe.json", "--calibration", sources.train, "--max-length", 8, "--overwrite")
    assert squeeze(*again).code == 0
    assert same(weights_of(tmp_path), before)  # a report's recipe is a recipe


@pytest.mark.parametrize("method", ["rom", "svd"])
def test_layers_that_share_a_factor(squeeze: Any, sources: Sources, tmp_path: Path, method: str) -> None:
    done = squeeze("--method", method, *KEEP, "--joint", "--calibration", sources.train)
    assert (done.code, done.err) == (0, "")
    entries = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["layers"]
    assert sum("v_of" in entry for entry in entries.values()) == 4
    assert report_of(tmp_path)["compression"]["share"] <= 0.5
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in model.parameters()) == report_of(tmp_path)["compression"]["model_parameters"]


def test_fewer_neurons_and_no_method(squeeze: Any, sources: Sources, tmp_path: Path) -> None:
    flags = ("--method", "none", "--keep-neurons", 0.5, "--keep-layers", 1)
    done = squeeze(*flags, "--calibration", sources.train)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].startswith(f"{tmp_path / 'out'}: smaller on 256 rows of text in ")
    report = report_of(tmp_path)
    assert report["compression"]["layers"] == [] and report["recipe"]["method"] == {"name": "none"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert len(model.bert.encoder.layer) == 1 and model.config.intermediate_size * 2 == report["kept_neurons"][1]
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == report["compression"]["model_parameters"]


@pytest.mark.parametrize("method", ["rom", "losparse-one-shot"])
def test_a_causal_model_looks_at_blocks_of_plain_text(
    squeeze: Any, decoder: Path, texts: Path, tmp_path: Path, method: str
) -> None:
    done = squeeze("--method", method, *KEEP, "--calibration", texts, model=decoder)
    assert (done.code, done.err) == (0, "")
    report = report_of(tmp_path)
    tokens = sum(len(text.split()) + 2 for text, _ in make_texts(96, 3))  # [CLS] and [SEP] around each
    assert report["max_length"] == 16 and report["examples"]["calibration"] == tokens // 16
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == report["architecture"] == "LlamaForCausalLM"
    biases = [module.bias is not None for module in model.modules() if isinstance(module, FactoredLinear)]
    assert len(biases) == 21 and any(biases)  # which Llama's own layers have not
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_a_model_without_a_head(squeeze: Any, sources: Sources, texts: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(sources.model).save_pretrained(tmp_path / "bare")
    make_tokenizer().save_pretrained(tmp_path / "bare")
    flags = ("--method", "losparse-one-shot", *KEEP, "--calibration", texts)
    assert squeeze(*flags, model=tmp_path / "bare").code == 0
    assert isinstance(AutoModel.from_pretrained(tmp_path / "out"), BertModel)


def test_texts_are_chosen_by_seed(squeeze: Any, sources: Sources, tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        few = ("--calibration-examples", 4, "--seed", seed, "--overwrite")
        assert squeeze("--method", "rom", *KEEP, "--calibration", sources.train, *few).code == 0
        found.append(weights_of(tmp_path))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_layers_may_see_the_dense_model(squeeze: Any, texts: Path, tmp_path: Path) -> None:
    flags = ("--method", "rom", *KEEP, "--calibration", texts, "--overwrite")
    assert squeeze(*flags).code == 0
    in_order = weights_of(tmp_path)
    assert squeeze(*flags, "--sequential").code == 0
    assert same(weights_of(tmp_path), in_order)
    assert squeeze(*flags, "--no-sequential").code == 0
    assert report_of(tmp_path)["sequential"] is False and not same(weights_of(tmp_path), in_order)


def test_blocks_that_do_not_run_alone(squeeze: Any, texts: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "embedding_size": 16, "num_attention_heads": 2, "intermediate_size": 64}
    config = AlbertConfig(**sizes, num_hidden_layers=4, num_hidden_groups=2, vocab_size=24, max_position_embeddings=32)
    AlbertForSequenceClassification(config).save_pretrained(tmp_path / "albert")  # each of its blocks runs twice
    make_tokenizer().save_pretrained(tmp_path / "albert")
    flags = ("--method", "rom", *KEEP, "--calibration", texts)
    asked = squeeze(*flags, "--sequential", model=tmp_path / "albert")
    assert asked.code == 2 and "--no-sequential" in asked.err and not (tmp_path / "out").exists()
    assert squeeze(*flags, model=tmp_path / "albert").code == 0
    assert report_of(tmp_path)["sequential"] is False


@pytest.mark.parametrize("how", ["even", "importance"])
@pytest.mark.parametrize("method", ["svd", "rom"])
def test_fewer_blocks(squeeze: Any, decoder: Path, texts: Path, tmp_path: Path, method: str, how: str) -> None:
    data = ("--calibration", texts) if method == "rom" or how == "importance" else ()
    flags = ("--method", method, *KEEP, "--keep-layers", 2, "--keep-layers-by", how, *data)
    done = squeeze(*flags, model=decoder)
    assert done.code == 0, done.err
    assert "blocks kept: " in done.out and len(report_of(tmp_path)["kept_layers"]) == 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 2


@pytest.mark.parametrize("method", ["svd", "rom"])
def test_fewer_neurons(squeeze: Any, sources: Sources, texts: Path, tmp_path: Path, method: str) -> None:
    flags = ("--method", method, *KEEP, "--keep-neurons", 0.5, "--keep-layers", 1, "--calibration", texts)
    done = squeeze(*flags)
    assert done.code == 0, done.err
    wide = AutoModelForSequenceClassification.from_pretrained(sources.model).config.intermediate_size
    assert f"neurons kept: {wide // 2} of {wide} in every block" in done.out
    assert report_of(tmp_path)["kept_neurons"] == [wide // 2, wide]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert (model.config.intermediate_size, model.config.num_hidden_layers) == (wide // 2, 1)


def test_half_precision_stays(squeeze: Any, decoder: Path, texts: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(decoder).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path / "half")
    assert squeeze("--method", "rom", *KEEP, "--calibration", texts, model=tmp_path / "half").code == 0
    stored = weights_of(tmp_path)
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.bfloat16}
    assert report_of(tmp_path)["file_bytes"] < report_of(tmp_path)["dense_file_bytes"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16 and torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_texts_for_a_method_that_is_fine_tuned(squeeze: Any, sources: Sources, texts: Path, tmp_path: Path) -> None:
    flags = ("--method", "rom", *KEEP, "--train", sources.train, "--max-steps", 2, "--overwrite")
    assert squeeze(*flags, "--calibration", texts, "--no-sequential").code == 0
    assert report_of(tmp_path)["calibration"] == str(texts) and report_of(tmp_path)["steps"] == 2
    at_once = weights_of(tmp_path)
    assert squeeze(*flags, "--calibration", texts, "--sequential").code == 0
    assert not same(weights_of(tmp_path), at_once), "layers saw what those before them give"
    recipe = Recipe(method=ROM(keep=0.5))
    job = CompressionJob(sources.model, tmp_path / "out", recipe, train=sources.train, calibration=texts)
    found = prepare(job, read_checkpoint(sources.model), SILENT).calibration
    assert found is not None and sum(len(batch["input_ids"]) for batch in found) == 96
    without = prepare(replace(job, calibration=None), read_checkpoint(sources.model), SILENT)
    assert without.calibration is None
    by_training: list[dict[str, torch.Tensor]] = []
    for few in ((), ("--calibration-examples", 4)):
        assert squeeze(*flags, *few).code == 0
        by_training.append(weights_of(tmp_path))
    assert not same(*by_training), "rows of training are looked at, as many as asked for"


def test_verbose_says_the_stages_on_stderr(squeeze: Any, texts: Path) -> None:
    done = squeeze("--method", "rom", *KEEP, "--calibration", texts, "--verbose")
    stages = [line.split(": ")[1] for line in done.err.splitlines()]
    assert stages == ["reading the data", "opening the model", "tokenising calibration texts", "compressing", "writing"]


# From the checkpoint to ONNX


def test_layers_left_dense_are_shown_and_exported(
    squeeze: Any, losparse: Command, sources: Sources, tmp_path: Path
) -> None:
    assert squeeze("--method", "losparse-one-shot", "--keep", 0.8, "--calibration", sources.train).code == 0
    layers = report_of(tmp_path)["compression"]["layers"]
    dense = [layer["name"] for layer in layers if (layer["rank"], layer["kept"]) == (0, layer["out_features"])]
    # All forms a layer can take are in this one model.
    assert dense and any(layer["pivots"] for layer in layers)
    assert any(0 < layer["kept"] < layer["out_features"] for layer in layers)
    shown = losparse("inspect", tmp_path / "out", "--json", tmp_path / "inspect.json")
    lines = {line.split()[0]: line.split() for line in shown.out.splitlines() if line.startswith("bert.")}
    assert [name for name, cells in lines.items() if cells[2:4] == ["-", "dense"]] == sorted(dense)
    assert all(lines[name][-1] == "100.0%" for name in dense)
    counts = report_of(tmp_path)["compression"]
    assert f"layers: {counts['parameters']:,} of {counts['dense_parameters']:,} parameters" in shown.out
    assert f", {len(dense)} of 12 left dense\n" in shown.out
    contents = json.loads((tmp_path / "inspect.json").read_text())
    assert (contents["layer_parameters"], contents["layer_share"]) == (counts["parameters"], counts["share"])
    exported = losparse("export", tmp_path / "out", tmp_path / "out-onnx")
    assert exported.code == 0, exported.err
    parity = json.loads((tmp_path / "out-onnx" / "losparse.json").read_text())["parity"]
    assert parity["max_abs"] <= parity["tolerance"]
    planned = losparse("inspect", tmp_path / "out-onnx").out
    assert f", {len(dense)} of 12 left dense\n" in planned


# OUT


def test_out(squeeze: Any, losparse: Command, model_copy: Path, sources: Sources, tmp_path: Path) -> None:
    assert squeeze("--method", "svd").code == 0
    (tmp_path / "out" / "old.txt").write_text("old")
    squeeze("--method", "svd").refused("exists", "--overwrite")
    assert squeeze("--method", "svd", "--overwrite").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "damaged"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in sources.model.iterdir()} | {"losparse_report.json"}
    losparse("compress", model_copy, model_copy, "--method", "svd", "--overwrite").refused("another folder")


def test_a_failure_while_saving_leaves_what_was_there(squeeze: Any, tmp_path: Path) -> None:
    said = f"'{tmp_path / 'out'}' cannot be written: ", "File too large", "make room on that disk, or choose another"
    with full_disk():
        squeeze("--method", "svd").refused(*said)
    assert list(tmp_path.iterdir()) == []
    assert squeeze("--method", "svd").code == 0
    before = weights_of(tmp_path)
    with full_disk():
        squeeze("--method", "svd", "--keep", 0.5, "--overwrite").refused(*said)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and same(weights_of(tmp_path), before)


def test_one_of_several_processes_writes(squeeze: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    assert squeeze("--method", "svd").code == 0
    assert list(tmp_path.iterdir()) == []


def test_compressing_in_python_is_as_quiet(sources: Sources, tmp_path: Path) -> None:
    program = (
        "from losparse import SVD, CompressionJob, Recipe, compress_folder\n"
        f"compress_folder(CompressionJob({str(sources.model)!r}, {str(tmp_path / 'out')!r}, Recipe(method=SVD())))\n"
        "from transformers import logging; assert logging.is_progress_bar_enabled()"
    )
    shown = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=shown)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
