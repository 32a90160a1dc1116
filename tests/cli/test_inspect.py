"""`losparse inspect`: the table agrees with the report, the model and the plan, and damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from losparse import SVD, compress_
from losparse.models.report import report
from losparse.saving.quantizer import mark_compressed

from ..pivoting import store_pivots_
from .conftest import Command, Pass, Sources, edit_json, file_record, loaded_by, make_model


def test_inspect_agrees_with_the_report(losparse: Command, whole_pass: Pass, tmp_path: Path) -> None:
    done = losparse("inspect", whole_pass.compressed, "--json", tmp_path / "inspect.json")
    assert (done.code, done.err) == (0, "")
    contents = json.loads((tmp_path / "inspect.json").read_text())
    report = json.loads((whole_pass.compressed / "losparse_report.json").read_text())
    counts = report["compression"]
    assert contents["kind"] == "compressed checkpoint"
    assert contents["layer_share"] == counts["share"]
    assert contents["model_parameters"] == counts["model_parameters"]
    assert contents["file_bytes"] == (whole_pass.compressed / "model.safetensors").stat().st_size
    assert contents["bytes"] == report["bytes"] and sum(report["bytes"].values()) == contents["file_bytes"]
    assert f"bytes: embeddings {contents['bytes']['embeddings']:,} (" in done.out
    assert f"beside them the tokenizer: {contents['tokenizer_bytes']:,} bytes" in done.out
    expected = {layer["name"]: layer["parameters"] for layer in counts["layers"]}
    assert {layer["name"]: layer["parameters"] for layer in contents["layers"]} == expected
    assert f"{counts['parameters']:,} of {counts['dense_parameters']:,} parameters" in done.out


def test_inspect_counts_what_the_model_has(losparse: Command, sources: Sources, tmp_path: Path) -> None:
    assert losparse("inspect", sources.model, "--json", tmp_path / "inspect.json").code == 0
    contents = json.loads((tmp_path / "inspect.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(sources.model)
    assert contents["kind"] == "dense checkpoint"
    assert contents["model_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert len(contents["layers"]) == 12 and contents["layer_share"] == 1.0


def test_inspect_shows_the_plan_of_an_onnx_folder(losparse: Command, whole_pass: Pass, tmp_path: Path) -> None:
    done = losparse("inspect", whole_pass.onnx, "--json", tmp_path / "inspect.json")
    assert "lowering" in done.out.splitlines()[1]
    contents = json.loads((tmp_path / "inspect.json").read_text())
    metadata = json.loads((whole_pass.onnx / "losparse.json").read_text())
    assert contents["layer_parameters"] == metadata["parameters"]["layers"]
    assert contents["layer_dense_parameters"] == metadata["parameters"]["layers_dense"]
    assert all(layer["lowering"] for layer in contents["layers"])
    assert sum(contents["bytes"].values()) == metadata["files"]["model.onnx"]["bytes"]
    assert min(contents["bytes"].values()) > 0 and contents["embeddings"] is None


def test_inspect_loads_nothing_heavy(whole_pass: Pass) -> None:
    program = f"from losparse.cli.main import main; main(['inspect', {str(whole_pass.compressed)!r}])"
    assert loaded_by(program) == set()


def test_inspect_finds_a_configuration_that_does_not_fit(
    losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole_pass.compressed, tmp_path / "small"))
    config = json.loads((folder / "config.json").read_text())
    layers = config["quantization_config"]["layers"]
    name = next(iter(layers))
    layers[name]["rank"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    losparse("inspect", folder).refused(f"'{name}.u' is", "different models")
    del layers[name]["rank"]
    (folder / "config.json").write_text(json.dumps(config))
    losparse("inspect", folder).refused(name, "malformed")
    edit_json(onnx_copy / "plan.json", layers={"a": {"shape": [0, 1]}})
    edit_json(onnx_copy / "losparse.json", files={"model.onnx": file_record(onnx_copy / "model.onnx")})
    losparse("inspect", onnx_copy).refused("plan.json", "malformed")
    losparse("inspect", tmp_path).refused("has no config.json")


def test_a_plan_that_cannot_be_read_is_exported_again(losparse: Command, onnx_copy: Path) -> None:
    edit_json(onnx_copy / "losparse.json", files={"model.onnx": file_record(onnx_copy / "model.onnx")})
    for text, words in (("{", "not valid JSON"), ("[]", "must hold a JSON object")):
        (onnx_copy / "plan.json").write_text(text)
        losparse("inspect", onnx_copy).refused("plan.json", words, "export the folder again")


def test_inspect_shows_pivots(losparse: Command, tmp_path: Path) -> None:
    model = make_model()
    compress_(model, SVD(keep=0.5))
    store_pivots_(model)
    model.save_pretrained(tmp_path / "pivots")
    done = losparse("inspect", tmp_path / "pivots", "--json", tmp_path / "inspect.json")
    contents = json.loads((tmp_path / "inspect.json").read_text())
    expected = {layer.name: (layer.spec.pivot_side, layer.parameters) for layer in report(model).layers}
    assert {layer["name"]: (layer["pivots"], layer["parameters"]) for layer in contents["layers"]} == expected
    assert contents["model_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert done.out.count("(pivot outputs)") == 8 and done.out.count("(pivot inputs)") == 4
    config = json.loads((tmp_path / "pivots" / "config.json").read_text())
    layers = config["quantization_config"]["layers"]
    name = next(iter(layers))
    for side, words in (("out", (f"'{name}.u' is", "different models")), ("rows", (name, "malformed"))):
        layers[name]["pivots"] = side
        (tmp_path / "pivots" / "config.json").write_text(json.dumps(config))
        losparse("inspect", tmp_path / "pivots").refused(*words)


def test_inspect_knows_layers_by_the_names_that_the_loader_knows(losparse: Command, tmp_path: Path) -> None:
    model = make_model()
    compress_(model, SVD(keep=0.5))
    model.save_pretrained(tmp_path / "with head")
    AutoModel.from_pretrained(tmp_path / "with head").save_pretrained(tmp_path / "bare")
    bare = model.bert
    del bare.config.quantization_config
    mark_compressed(bare, None)
    bare.save_pretrained(tmp_path / "born bare")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "born bare").save_pretrained(tmp_path / "got head")
    for name in ("with head", "bare", "born bare", "got head"):
        done = losparse("inspect", tmp_path / name)
        assert done.code == 0, done.err
        assert "layers: 7,992 of 16,384 parameters" in done.out
    edit = json.loads((tmp_path / "bare" / "config.json").read_text())["quantization_config"]
    next(iter(edit["layers"].values()))["rank"] = 3
    edit_json(tmp_path / "bare" / "config.json", quantization_config=edit)
    losparse("inspect", tmp_path / "bare").refused("different models")


def test_sharded_checkpoints(losparse: Command, model_copy: Path) -> None:
    tensors = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    index = {}
    for number, names in enumerate(halves):
        save_file({name: tensors[name] for name in names}, model_copy / f"part{number}.safetensors")
        index |= {name: f"part{number}.safetensors" for name in names}
    file = model_copy / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": index}))
    assert "20,130 parameters" in losparse("inspect", model_copy).out
    (model_copy / "part1.safetensors").unlink()
    losparse("inspect", model_copy).refused("lacks part1.safetensors")
    file.write_text("{}")
    losparse("inspect", model_copy).refused("weight_map")


def test_reasons_are_for_an_onnx_folder(losparse: Command, whole_pass: Pass) -> None:
    losparse("inspect", whole_pass.compressed, "--reasons").refused("--reasons is for an ONNX folder", "checkpoint")
