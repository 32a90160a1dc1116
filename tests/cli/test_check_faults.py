"""`losparse check` finds what was planted in a folder, wherever it was planted: in its texts, its words, its files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from losparse_runtime import Session
from losparse_runtime.checking.numbers import random_batches

from ..runtime import conftest as made
from .conftest import Command, Pass, Sources, edit_json

Plant = Callable[[Path], None]

make_folder = made.make_folder


def relist(folder: Path) -> None:
    """Make losparse.json fit the files again, as whoever plants a fault may do."""
    metadata = json.loads((folder / "losparse.json").read_text())
    for name, record in metadata["files"].items():
        content = (folder / name).read_bytes()
        record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_json(folder / "losparse.json", files=metadata["files"])


def tokenizer(change: Callable[[Any], object]) -> Plant:
    def plant(folder: Path) -> None:
        data = json.loads((folder / "tokenizer.json").read_text())
        change(data)
        (folder / "tokenizer.json").write_text(json.dumps(data))

    return plant


def swap_words(data: Any) -> None:
    words = data["model"]["vocab"]
    words["fine"], words["dull"] = words["dull"], words["fine"]


def drop_mask(data: Any) -> None:
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "[MASK]"]


def settings(**changes: Any) -> Plant:
    return lambda folder: edit_json(folder / "tokenizer_config.json", **changes)


def metadata(**changes: Any) -> Plant:
    return lambda folder: edit_json(folder / "losparse.json", **changes)


def config(**changes: Any) -> Plant:
    return lambda folder: edit_json(folder / "config.json", **changes)


FAULTS: dict[str, tuple[Plant, str]] = {
    "swapped words": (tokenizer(swap_words), "tokenizer.json: model.vocab.dull is 5, the reference has 9"),
    "another lower-casing": (
        tokenizer(lambda data: data["normalizer"].update(lowercase=False)),
        "tokenizer.json: normalizer.lowercase is false, the reference has true",
    ),
    "added token removed": (tokenizer(drop_mask), "tokenizer.json: added_tokens is"),
    "no token at the end": (
        tokenizer(lambda data: data["post_processor"]["single"].pop()),
        "tokenizer.json: post_processor.single is",
    ),
    "padding side": (settings(padding_side="left"), 'padding_side is "left", the reference has "right"'),
    "truncation side": (settings(truncation_side="left"), 'truncation_side is "left", the reference has "right"'),
    "padding token": (settings(pad_token="[UNK]"), "the id of the padding token is 1, the reference has 0"),
    "truncation": (metadata(max_length=8), "max_length is 8, the reference has 32"),
    "types of a pair": (metadata(type_ids=True), "type_ids is true, the reference has false"),
    "permuted labels": (metadata(labels=["good", "bad"]), 'labels[0] is "good", the reference has "bad"'),
    "permuted classes": (
        config(id2label={"0": "good", "1": "bad"}),
        'id2label of config.json.0 is "good", the reference has "bad"',
    ),
    "scores of several classes": (
        config(problem_type="multi_label_classification"),
        'problem_type of config.json is "multi_label_classification", the reference has "single_label_classification"',
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_the_way_of_texts_is_found(losparse: Command, whole_pass: Pass, onnx_copy: Path, fault: str) -> None:
    plant, said = FAULTS[fault]
    plant(onnx_copy)
    relist(onnx_copy)
    done = losparse("check", onnx_copy, "--reference", whole_pass.compressed)
    assert (done.code, done.err) == (1, "")
    assert any(line.startswith(f"differs: {said}") for line in done.out.splitlines()), done.out
    assert done.out.splitlines()[-1] == "FAILED"


def test_a_problem_that_is_left_out_is_the_one_that_transformers_takes(
    losparse: Command, whole_pass: Pass, onnx_copy: Path
) -> None:
    config(problem_type=None)(onnx_copy)  # the checkpoint says that a text has one class
    relist(onnx_copy)
    assert losparse("check", onnx_copy, "--reference", whole_pass.compressed).code == 0


def test_the_first_text_and_token_that_differ_are_named(
    losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path
) -> None:
    tokenizer(swap_words)(onnx_copy)
    relist(onnx_copy)
    data = tmp_path / "texts.csv"
    data.write_text("text\nthe film was warm\nthe plot was dull\na fine story\n")
    # Against the folder it was copied from: no torch, and the words are found there too.
    done = losparse("check", onnx_copy, "--reference", whole_pass.onnx, "--data", data)
    assert done.code == 1
    assert (
        'differs: tokens of the data: 2 of 3 texts differ, the first is "the plot was dull": token 4 is 5 "dull", '
        'in the reference 9 "dull"'
    ) in done.out.splitlines()
    assert "differs: tokens: 2 of " in done.out and 'the first is "fine": token 1 is 9 "fine"' in done.out


def test_cutting_elsewhere_is_seen_in_the_tokens(losparse: Command, whole_pass: Pass, onnx_copy: Path) -> None:
    settings(truncation_side="left")(onnx_copy)
    relist(onnx_copy)
    done = losparse("check", onnx_copy, "--reference", whole_pass.compressed)
    assert "differs: tokens: " in done.out


def test_what_a_folder_allows_itself_is_not_asked(losparse: Command, whole_pass: Pass, onnx_copy: Path) -> None:
    model = onnx.load(onnx_copy / "model.onnx")
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    onnx.save(model, onnx_copy / "model.onnx")
    parity = json.loads((onnx_copy / "losparse.json").read_text())["parity"]
    edit_json(onnx_copy / "losparse.json", parity={**parity, "tolerance": 1e6})
    relist(onnx_copy)
    done = losparse("check", onnx_copy, "--reference", whole_pass.onnx)
    assert done.code == 1 and "differs" not in done.out


def keep_weights_outside(folder: Path) -> Path:
    """Move a folder's weights into a file beside the graph, and list it."""
    model = onnx.load(folder / "model.onnx")
    (folder / "model.onnx").unlink()
    place = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 1024}
    onnx.save(model, folder / "model.onnx", **place)
    edit_json(folder / "losparse.json", files={"model.onnx": {}, "model.onnx.data": {}})
    relist(folder)
    return folder / "model.onnx.data"


def test_edited_weights_beside_the_graph_are_found(losparse: Command, whole_pass: Pass, onnx_copy: Path) -> None:
    weights = keep_weights_outside(onnx_copy)
    assert losparse("check", onnx_copy, "--reference", whole_pass.compressed).code == 0
    content = bytearray(weights.read_bytes())
    content[10_001::64] = bytes(len(content[10_001::64]))
    weights.write_bytes(content)
    for reference in ((), ("--reference", whole_pass.compressed)):
        done = losparse("check", onnx_copy, *reference)
        assert done.code == 1
        assert "differs: model.onnx.data: SHA-256 is" in done.out


def test_changed_missing_and_extra_files_are_found_without_a_reference(
    losparse: Command, whole_pass: Pass, onnx_copy: Path
) -> None:
    done = losparse("check", whole_pass.onnx)
    assert (done.code, done.out.splitlines()[-1]) == (0, "passed")
    (onnx_copy / "weights.bin").write_bytes(b"x")
    done = losparse("check", onnx_copy)
    assert (done.code, done.out.splitlines()[-1]) == (1, "FAILED")
    assert "differs: weights.bin: losparse.json does not list it" in done.out.splitlines()
    model = onnx_copy / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    assert f"differs: model.onnx: has {model.stat().st_size} bytes" in losparse("check", onnx_copy).out
    model.unlink()
    done = losparse("check", onnx_copy, "--reference", whole_pass.compressed)
    assert done.code == 1 and "differs: model.onnx: missing, losparse.json lists it" in done.out


@pytest.mark.parametrize(("field", "value"), [("labels", ["good", "bad"]), ("max_length", 8), ("type_ids", True)])
def test_an_edited_description_is_found_without_a_reference(
    losparse: Command, onnx_copy: Path, tmp_path: Path, field: str, value: Any
) -> None:
    edit_json(onnx_copy / "losparse.json", **{field: value})
    done = losparse("check", onnx_copy, "--json", tmp_path / "check.json")
    assert done.code == 1
    result = json.loads((tmp_path / "check.json").read_text())
    assert not result["passed"] and result["against"] is None
    (line,) = result["differences"]
    assert line.startswith(f"losparse.json: {field}") and "the model file has" in line


def test_a_folder_without_its_tokenizer_is_said_not_to_be_compared(
    losparse: Command, whole_pass: Pass, onnx_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = json.loads((onnx_copy / "losparse.json").read_text())["files"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (onnx_copy / name).unlink()
        kept.pop(name, None)
    edit_json(onnx_copy / "losparse.json", files=kept)
    done = losparse("check", onnx_copy, "--reference", whole_pass.compressed)
    assert done.code == 0 and "has no tokenizer, so texts are not compared" in caplog.text


SENTENCES = {
    "modules.json": [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
    ],
    "1_Pooling/config.json": {"pooling_mode_cls_token": True},
    "sentence_bert_config.json": {"max_seq_length": 12},
}


def test_how_vectors_are_made_is_read_off_the_checkpoint(sources: Sources, tmp_path: Path) -> None:
    """A folder that says otherwise differs: `text_differences` compares these settings with those of losparse.json."""
    from losparse_export.opening.load import load_model
    from losparse_export.parity.pytorch import checkpoint_preprocessing

    folder = Path(shutil.copytree(sources.model, tmp_path / "encoder"))
    (folder / "1_Pooling").mkdir()
    for name, content in SENTENCES.items():
        (folder / name).write_text(json.dumps(content))
    found = checkpoint_preprocessing(load_model(folder, "feature-extraction"))
    assert (found.settings["pooling"], found.settings["normalize"]) == ("cls", True)
    assert found.text_settings["max_length"] == 12


def test_changed_pooling_is_found(losparse: Command, make_folder: Any) -> None:
    reference = make_folder("feature-extraction", name="reference").path
    folder = make_folder("feature-extraction", name="changed")
    assert losparse("check", folder.path, "--reference", reference).code == 0
    asked = {"prompts": {"query": "q: "}, "default_prompt_name": "query", "include_prompt": True}
    embedding = {**asked, "truncate_dim": 2, "similarity": None}
    folder.edit(lambda data: data.update(pooling="cls", normalize=False, embedding=embedding))
    done = losparse("check", folder.path, "--reference", reference)
    assert done.code == 1
    assert 'differs: pooling is "cls", the reference has "mean"' in done.out.splitlines()
    assert "differs: normalize is false, the reference has true" in done.out.splitlines()
    assert 'differs: embedding.default_prompt_name is "query", the reference has null' in done.out.splitlines()
    assert "differs: embedding.truncate_dim is 2, the reference has null" in done.out.splitlines()


@pytest.mark.parametrize(("side", "mask"), [("right", [1, 1, 1, 1, 0, 0, 0]), ("left", [0, 0, 0, 1, 1, 1, 1])])
def test_random_texts_are_padded_where_the_folder_pads(make_folder: Any, side: str, mask: list[int]) -> None:
    folder = make_folder().edit(lambda data: data.update(padding_side=side), "tokenizer_config.json")
    batches = list(random_batches(Session(folder.path, threads=1)))
    assert batches[2]["attention_mask"].tolist() == [[1] * 7, mask]
    assert batches[2]["input_ids"][1][np.array(mask) == 0].tolist() == [0, 0, 0]
