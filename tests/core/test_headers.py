"""Headers of safetensors files, and where a model's folder is: what is wrong is said in one line, without torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from losparse.errors import LosparseError
from losparse.saving.folder import weight_files, with_headers
from losparse.saving.headers import read_header, read_notes, sort_notes
from losparse.saving.source import find_model

NUMBER = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def raw(header: Any, data: bytes = b"1234", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_shapes_types_and_notes(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {
        "weights": torch.zeros(2, 3, dtype=torch.bfloat16),
        "kept": torch.arange(4),
        "one": torch.tensor(1.0),
        "none": torch.zeros(0, 5, dtype=torch.float64),
    }
    save_torch(tensors, file, metadata={"said": "so"})
    assert read_header(file) == {
        "weights": ((2, 3), "BF16"),
        "kept": ((4,), "I64"),
        "one": ((), "F32"),
        "none": ((0, 5), "F64"),
    }
    assert read_notes(file) == {"said": "so"}
    save_torch(tensors, file)
    assert read_notes(file).get("said") is None


def test_parameters_are_the_numbers_that_are_floats(tmp_path: Path) -> None:
    """Indices are none, and neither are the positions that old BERT checkpoints store by number."""
    file = tmp_path / "a.safetensors"
    tensors = {
        "weight": torch.zeros(2, 3, dtype=torch.bfloat16),
        "bias": torch.zeros(2),
        "layer.kept": torch.arange(4),
        "embeddings.position_ids": torch.arange(512),
        "mask": torch.ones(5, dtype=torch.bool),
        "scale": torch.zeros(7, dtype=torch.float8_e4m3fn),
    }
    save_torch(tensors, file)
    assert with_headers(tmp_path, {}, [file]).parameters == 6 + 2 + 7


def test_a_type_that_numpy_does_not_have(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(raw({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}))
    assert read_header(file) == {"a": ((4,), "F8_E4M3")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header too small"),
        (raw(b"{}", length=10**12), "header too large"),
        (b"\x80\x04" + b"pickle" * 20, "header too large"),
        (raw(b"{{{"), "invalid JSON in header"),
        (raw([1]), "invalid JSON in header"),
        (raw(b"[" * 100_000), "invalid JSON in header"),
        (raw({"a": {"dtype": "F32"}}), "missing field `shape`"),
        (raw({"a": {**NUMBER, "dtype": "X9"}}), "unknown variant `X9`"),
        (raw({"a": {**NUMBER, "shape": [-1]}}), "invalid value: integer `-1`"),
        (raw({"a": {**NUMBER, "shape": [2]}}), "invalid shape, data type, or offset"),
        (raw({"a": {**NUMBER, "shape": [2**63, 2**63]}}), "overflow"),
        (raw({"a": NUMBER}, b"12"), "another number of bytes, it has 71"),
        (raw({"a": NUMBER}, b"123456"), "another number of bytes, it has 75"),
        (raw({"a": NUMBER, "b": NUMBER}), "invalid offset for tensor"),
    ],
)
def test_files_that_are_damaged_or_cut_short(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    for read in (read_header, read_notes):
        with pytest.raises(
            LosparseError, match=r"a\.safetensors' is damaged or cut short: .*; copy it again$"
        ) as raised:
            read(file)
        message = str(raised.value)
        assert reason in message and "\n" not in message and len(message) < 240 + len(str(file))


def test_headers_need_no_torch(tmp_path: Path) -> None:
    save_file({f"layer.{number}": np.zeros((2, 2)) for number in range(2000)}, tmp_path / "a.safetensors")
    program = (
        "import sys; from pathlib import Path; from losparse.saving.headers import read_header\n"
        "print(len(read_header(Path(sys.argv[1]))), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2000 False\n"


def test_weights_of_a_variant_are_refused_by_their_name(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "model.fp16.safetensors")
    with pytest.raises(LosparseError, match=r"has model\.fp16\.safetensors but no model\.safetensors; .*without it$"):
        weight_files(tmp_path)
    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_where_a_model_is(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == find_model(tmp_path) == tmp_path
    (tmp_path / "file").touch()
    for name, message in (
        (tmp_path / "none", r"none' does not exist; give a folder with config\.json, or a hub id as owner/name"),
        ("bert", "'bert' does not exist"),
        ("../model", r"'\.\./model' does not exist"),
        (tmp_path / "file", r"file' is a file; give the folder"),
    ):
        with pytest.raises(LosparseError, match=message):
            find_model(name, download=lambda name, patterns: pytest.fail("no hub id"))


def test_only_weights_and_texts_are_fetched(tmp_path: Path) -> None:
    asked = []

    def download(name: str, patterns: list[str]) -> str:
        asked.append((name, patterns))
        return str(tmp_path)

    assert find_model("owner/model", download=download) == tmp_path
    assert asked == [("owner/model", ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"])]  # no pickles, no code


def test_a_hub_that_does_not_answer() -> None:
    def download(name: str, patterns: list[str]) -> str:
        raise ConnectionError("no\nroute")

    with pytest.raises(LosparseError, match=r"^no model folder 'owner/model', and it could not be .* hub: no route$"):
        find_model("owner/model", download=download)
    with pytest.raises(LosparseError, match="no model folder 'owner/model', and it could not be fetched from the hub"):
        find_model("owner/model")  # the suite runs with HF_HUB_OFFLINE


def test_notes_in_order_change_nothing_else(tmp_path: Path) -> None:
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(1, np.int64)}
    notes = {name: f"{name} wörd" for name in "zyxwvuts"}
    contents = set()
    for number in range(8):  # eight notes have 40,320 orders
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors", notes)
        sort_notes(folder)
        assert read_notes(folder / "model.safetensors") == notes
        read = load_file(folder / "model.safetensors")
        assert read.keys() == tensors.keys() and all((read[name] == tensors[name]).all() for name in tensors)
        contents.add((folder / "model.safetensors").read_bytes())
    assert len(contents) == 1
