"""Reading a folder: every way in which it can be wrong gets its own line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from losparse_runtime import FolderError, TensorSpec, changed_files, read_folder, read_metadata, verify_files
from losparse_runtime.contract.config import ModelConfig, read_model_config
from losparse_runtime.contract.files import record_files
from losparse_runtime.contract.records import FileRecord

from .conftest import file_record

MakeFolder = Callable[..., Any]


def refused(path: Path, message: str) -> None:
    with pytest.raises(FolderError, match=message) as raised:
        read_metadata(path)
    assert "\n" not in str(raised.value)


def put(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A change of one field; dots go into objects and lists."""

    def change(data: Any) -> None:
        *way, last = name.split(".")
        for step in way:
            data = data[int(step)] if isinstance(data, list) else data[step]
        data[last] = value

    return change


def test_a_good_folder_is_read_whole(make_folder: MakeFolder) -> None:
    folder = make_folder("token-classification")
    metadata = read_metadata(folder.path)
    assert metadata.task == "token-classification"
    assert metadata.labels == ("red", "green", "blue")
    assert metadata.inputs[0] == TensorSpec("input_ids", "int64", ("batch", "sequence"))
    assert metadata.outputs == (TensorSpec("logits", "float32", ("batch", "sequence", 3)),)
    assert metadata.token_outputs == ("logits",)
    assert isinstance(metadata.files["model.onnx"], FileRecord)
    assert metadata.source.method is None
    assert metadata.parity["cases"] == [{"batch": 1, "length": 7}]
    with pytest.raises(dataclasses.FrozenInstanceError):
        metadata.task = "x"  # type: ignore[misc]


def test_a_text_output_is_not_a_token_output(make_folder: MakeFolder) -> None:
    assert read_metadata(make_folder().path).token_outputs == ()


def test_fields_of_a_later_writer_are_skipped(make_folder: MakeFolder) -> None:
    assert read_metadata(make_folder().edit(put("later", [1])).path).format == 1


def test_places_that_are_not_exported_folders(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder().path
    refused(tmp_path / "nowhere", r"nowhere: no such folder; give the folder that `losparse export` wrote$")
    refused(folder / "model.onnx", r"model.onnx: is a file, must be a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty: has no losparse.json; give the folder that `losparse export` wrote$")
    (tmp_path / "checkpoint").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "checkpoint")
    refused(tmp_path / "checkpoint", r"is a model checkpoint, .*; export it with `losparse export .*checkpoint OUT`$")
    (folder / "losparse.json").unlink()
    refused(folder, r"made: has model.onnx but no losparse.json, so losparse did not write it; export its source with")


def test_files_that_are_missing_or_cut_short(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    model = folder / "model.onnx"
    size = model.stat().st_size
    model.write_bytes(model.read_bytes()[:-10])
    refused(folder, rf"model.onnx: must have {size} bytes by losparse.json, has {size - 10}; copy it again")
    model.unlink()
    refused(folder, r"model.onnx: missing, but losparse.json names it; copy the whole folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"losparse.json: not valid JSON \(.*\); export the folder again with `losparse export`$"),
        ('{"format": NaN}', r"losparse.json: not valid JSON \(NaN is not a JSON number\)"),
        ("[1]", r"losparse.json: must hold a JSON object, got a list"),
        ("[" * 100_000, r"losparse.json: not valid JSON"),
        ("{}", r"losparse.json: field 'format' is missing; export the folder again"),
    ],
)
def test_metadata_that_is_not_json(make_folder: MakeFolder, text: str, message: str) -> None:
    folder = make_folder().path
    (folder / "losparse.json").write_text(text)
    refused(folder, message)


def test_metadata_that_is_not_text(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    (folder / "losparse.json").write_bytes(b"\xff\xfe\x00")
    refused(folder, r"losparse.json: not valid JSON")


def test_metadata_that_cannot_be_read(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    (folder / "losparse.json").unlink()
    (folder / "losparse.json").mkdir()
    refused(folder, r"losparse.json: cannot be read \(Is a directory\)")


def test_a_later_format_is_refused_with_the_way_out(make_folder: MakeFolder) -> None:
    folder = make_folder().edit(put("format", 5)).path
    refused(
        folder,
        r"field 'format' is 5, this losparse_runtime reads 1 to 4: .* pip install --upgrade losparse, or export",
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", True, r"'format' must be a whole number >= 1, got True"),
        ("task", "translation", r"'task' must be one of text-classification, .*, got 'translation'"),
        ("task", ["x"], r"'task' must be one of"),
        ("source", None, r"'source' must be an object, got None"),
        ("source.model", "", r"'source.model' must be a string that is not empty, got ''"),
        ("source.model_type", 3, r"'source.model_type' must be a string"),
        ("source.architecture", None, r"'source.architecture' must be a string"),
        ("source.compressed", "no", r"'source.compressed' must be true or false, got 'no'"),
        ("source.method", "losparse", r"'source.method' must be an object"),
        ("precision", 32, r"'precision' must be a string"),
        ("opset", "23", r"'opset' must be a whole number >= 1, got '23'"),
        ("ir_version", 0, r"'ir_version' must be a whole number >= 1, got 0"),
        ("fingerprint", "ABC", r"'fingerprint' must be a SHA-256 of 64 lower-case hexadecimal digits, got 'ABC'"),
        ("files", [], r"'files' must be an object"),
        ("files", {}, r"'files.model.onnx' is missing"),
        ("files.model.onnx", 5, None),
        *(
            ("files", {name: {}}, rf"'files' must name files inside the folder, got '{re.escape(name)}'")
            for name in ("../x", "/x", "a/../x", "a//x", "a/", ".", "a/./x")
        ),
        ("files", {"a\\x": {}}, r"'files' must name files inside the folder, got"),
        (
            "files",
            {"model.onnx": {"bytes": -1, "sha256": "0" * 64}},
            r"'files.model.onnx.bytes' must be a whole number",
        ),
        ("files", {"model.onnx": {"bytes": 1, "sha256": "g" * 64}}, r"'files.model.onnx.sha256' must be a SHA-256"),
        ("inputs", {}, r"'inputs' must be a list of objects"),
        ("inputs", [], r"'inputs' must be a list of at least one tensor, each name once"),
        ("inputs.0.name", "attention_mask", r"'inputs' must be a list of at least one tensor, each name once"),
        ("inputs.0.name", "ids", r"'inputs' must have 'input_ids' with the two axes batch and sequence"),
        ("inputs.0.shape", ["batch"], r"'inputs' must have 'input_ids' with the two axes batch and sequence"),
        ("inputs.0.dtype", "long", r"'inputs\[0\].dtype' must be one of float32, .*, got 'long'"),
        ("inputs.1.shape", ["batch", 0], r"'inputs\[1\].shape' must be a list of axis names and sizes in 1\.\.2147"),
        ("inputs.1.shape", ["batch", 10**400], r"must be a list of axis names and sizes in 1\.\.2147483647, got "),
        ("inputs.1.shape", "batch", r"'inputs\[1\].shape' must be a list of axis names"),
        ("outputs.0.name", "scores", r"'outputs' must have 'logits' for task text-classification, got scores"),
        ("labels", "red", r"'labels' must be a list of strings, got 'red'"),
        ("labels", ["red", 1, "blue"], r"'labels' must be a list of strings"),
        ("labels", ["red", "red", "blue"], r"'labels' must be a list of strings, none of them twice"),
        ("labels", ["red", "green"], r"'labels' must name every class of output 'logits', .*\['batch', 3\], got 2"),
        ("labels", None, r"'labels' must name every class of output 'logits', .*\['batch', 3\], got none"),
        ("outputs.0.shape", ["batch", "classes"], r"'labels' must name every class .*\['batch', 'classes'\], got 3"),
        ("max_length", 0, r"'max_length' must be a whole number >= 1, got 0"),
        ("max_length", 12.0, r"'max_length' must be a whole number >= 1, got 12.0"),
        ("pooling", "sum", r"'pooling' must be one of mean, .*, or several joined by \+, got 'sum'"),
        ("normalize", None, r"'normalize' must be true or false, got None"),
        ("session", [], r"'session' must be an object"),
        ("session.disabled_optimizers", "GeluFusion", r"'session.disabled_optimizers' must be a list of strings"),
        ("parameters", None, r"'parameters' must be an object"),
        ("parameters.layers", -1, r"'parameters.layers' must be a whole number >= 0, got -1"),
        ("parity.max_abs", -1.0, r"'parity.max_abs' must be a finite number >= 0, got -1.0"),
        ("parity.max_rel", "small", r"'parity.max_rel' must be a finite number"),
        ("parity.tolerance", 10**400, r"'parity.tolerance' must be a finite number"),
        ("parity.cosine", -1.5, r"'parity.cosine' must be a finite number >= -1, got -1.5"),
        ("parity.top1_agreement", "all", r"'parity.top1_agreement' must be a finite number >= 0"),
        ("parity.cases", [1], r"'parity.cases' must be a list of objects"),
        ("versions", {"losparse": 1}, r"'versions.losparse' must be a string"),
    ],
)
def test_every_field_is_checked(make_folder: MakeFolder, name: str, value: object, message: str | None) -> None:
    if message is None:  # the dots of a file name are not a way into objects
        folder = make_folder().edit(lambda data: data["files"].update({"model.onnx": value}))
        refused(folder.path, r"'files.model.onnx' must be an object, got 5")
        return
    refused(make_folder().edit(put(name, value)).path, message)


def test_parity_may_say_more(make_folder: MakeFolder) -> None:
    assert "cosine" not in read_metadata(make_folder().path).parity
    folder = make_folder(name="newer").edit(lambda data: data["parity"].update(cosine=-0.5, top1_agreement=1, new=2))
    parity = read_metadata(folder.path).parity
    assert (parity["cosine"], parity["top1_agreement"]) == (-0.5, 1.0) and "new" not in parity


def test_every_field_must_be_there(make_folder: MakeFolder) -> None:
    folder = make_folder()
    data = json.loads((folder.path / "losparse.json").read_text())
    for name in data:
        smaller = {key: value for key, value in data.items() if key != name}
        (folder.path / "losparse.json").write_text(json.dumps(smaller))
        refused(folder.path, rf"losparse.json: field '{name}' is missing; export the folder again")


def test_an_infinite_number_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    text = (folder / "losparse.json").read_text().replace('"tolerance": 0.0001', '"tolerance": 1e999')
    (folder / "losparse.json").write_text(text)
    refused(folder, r"losparse.json: not valid JSON \(1e999 is not a finite number\); export the folder again")


def test_verify_files_finds_one_changed_byte(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    verify_files(folder)
    verify_files(str(folder))
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    read_metadata(folder)  # the size is the same: only the hash can tell
    with pytest.raises(FolderError, match=r"model.onnx: SHA-256 is .*, losparse.json says .*: the file changed after"):
        verify_files(folder)


def test_every_file_that_is_listed_must_be_as_it_was(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    text = (folder / "tokenizer.json").read_text()
    records = {name: file_record(folder / name) for name in ("model.onnx", "tokenizer.json", "config.json")}
    make_folder(name="old")  # lists the model alone, as earlier writers did: still opens
    read_metadata(folder.parent / "old")
    data = json.loads((folder / "losparse.json").read_text()) | {"files": records}
    (folder / "losparse.json").write_text(json.dumps(data))
    verify_files(folder)
    assert read_metadata(folder).model_bytes == records["model.onnx"]["bytes"]
    (folder / "tokenizer.json").write_text(text.replace('"a"', '"X"').replace('"b"', '"a"').replace('"X"', '"b"'))
    read_metadata(folder)
    with pytest.raises(FolderError, match=r"tokenizer.json: SHA-256 is .*: the file changed after the export"):
        verify_files(folder)
    (folder / "tokenizer.json").write_text(text[:-40])
    refused(folder, r"tokenizer.json: must have \d+ bytes by losparse.json, has \d+; copy it again")
    (folder / "tokenizer.json").unlink()
    refused(folder, r"tokenizer.json: missing, but losparse.json names it; copy the whole folder")


def test_model_config_reads_what_the_runtime_needs(make_folder: MakeFolder) -> None:
    folder = make_folder()
    assert read_model_config(folder.path) == ModelConfig(12, 2, 0)
    folder.edit(put("problem_type", "multi_label_classification"), "config.json")
    folder.edit(put("type_vocab_size", 0), "config.json").edit(put("pad_token_id", None), "config.json")
    assert read_model_config(folder.path) == ModelConfig(12, None, None, "multi_label_classification")
    folder.edit(put("sbert_ce_default_activation_function", "torch.nn.modules.activation.Tanh"), "config.json")
    assert read_model_config(folder.path).activation == "torch.nn.modules.activation.Tanh"
    folder.edit(put("sentence_transformers", {"activation_fn": "torch.nn.modules.linear.Identity"}), "config.json")
    assert read_model_config(folder.path).activation == "torch.nn.modules.linear.Identity"
    folder.edit(put("vocab_size", "many"), "config.json")
    with pytest.raises(FolderError, match=r"config.json: field 'vocab_size' must be a whole number >= 1, got 'many'"):
        read_model_config(folder.path)
    (folder.path / "config.json").unlink()
    assert read_model_config(folder.path) == ModelConfig()


def test_every_file_that_is_not_as_it_was_written_is_listed(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    assert changed_files(folder) == []
    model = folder / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"\0")
    (folder / "other.onnx.data").mkdir()
    digest, extra = changed_files(folder)
    assert digest.startswith("model.onnx: SHA-256 is ") and extra == "other.onnx.data: losparse.json does not list it"
    model.write_bytes(content[:-1])
    assert changed_files(folder)[0] == f"model.onnx: has {len(content) - 1} bytes, losparse.json says {len(content)}"
    model.unlink()
    assert changed_files(folder)[0] == "model.onnx: missing, losparse.json lists it"
    with pytest.raises(FolderError, match="no such folder"):
        changed_files(folder / "none")


def test_files_in_folders_are_known_by_their_path(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for name in ("1_Pooling", "2_Normalize"):
        (folder.path / name).mkdir()
        (folder.path / name / "config.json").write_text("{}")
    records = {name: asdict(record) for name, record in record_files(folder.path).items()}
    assert {"1_Pooling/config.json", "2_Normalize/config.json", "model.onnx"} < records.keys()
    records.pop("2_Normalize/config.json")
    folder.edit(lambda data: data.update(files=records))
    (folder.path / "1_Pooling" / "extra.bin").write_bytes(b"")
    assert changed_files(folder.path) == [
        "1_Pooling/extra.bin: losparse.json does not list it",
        "2_Normalize: losparse.json does not list it",
    ]
    (folder.path / "1_Pooling" / "config.json").write_text("[]")
    assert changed_files(folder.path)[0].startswith("1_Pooling/config.json: SHA-256 is ")
    (folder.path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(FolderError, match=r"1_Pooling/config\.json: missing, but losparse\.json names it"):
        read_folder(folder.path)


def test_what_a_hub_or_git_adds_is_no_change(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    for name in (".gitattributes", ".gitignore", "README.md", "readme.txt", "LICENSE", "Licence.md", "NOTICE.txt"):
        (folder / name).write_text("of the hub")
    for name in (".cache", ".git"):
        (folder / name).mkdir()
    assert changed_files(folder) == []
    wrong = ["README.json", "license.bin", "model.onnx.data", "model2.onnx", "spiece.model", "vocab.txt", "weights"]
    for name in wrong:
        (folder / name).write_text("of another model")
    # This folder's writer listed the model alone, so its tokenizer may be there unlisted.
    found = [line.split(":")[0] for line in changed_files(folder)]
    assert found == [name for name in wrong if name != "vocab.txt"]


def test_a_name_too_long_for_a_file_is_refused_in_one_line(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.edit(lambda data: data["files"].update({"a" * 300: data["files"]["model.onnx"]}))
    for read in (read_metadata, changed_files):
        with pytest.raises(FolderError, match=r"got 'a{80}': a part of it has more than 240 bytes$"):
            read(folder.path)
