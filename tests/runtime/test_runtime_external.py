"""Weights beside a model: read off the file as onnx reads them, and refused where nothing vouches for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from losparse_runtime import FolderError, Session
from losparse_runtime.engine.external import external_files

from .conftest import file_record

MakeFolder = Callable[..., Any]


def outside(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones((2, 2), np.float32), name)
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def branch(name: str, location: str) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], [name], value=outside(name, location))
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2])])


def test_every_place_that_can_hold_weights_is_read(tmp_path: Path) -> None:
    choose = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("a", "then.bin"), else_branch=branch("b", "else.bin")
    )
    graph = helper.make_graph(
        [choose, helper.make_node("Add", ["y", "w"], ["z"])],
        "nested",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 2])],
        [outside("w", "main.bin"), numpy_helper.from_array(np.ones(3000, np.float32), "inline")],
    )
    file = tmp_path / "model.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    assert external_files(file) == {"then.bin", "else.bin", "main.bin"}


def test_a_model_without_weights_beside_it(make_folder: MakeFolder) -> None:
    assert external_files(make_folder().path / "model.onnx") == set()


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"not a model"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(FolderError, match=r"model\.onnx: is not an ONNX model or is cut short; copy it again"):
        external_files(tmp_path / "model.onnx")


def test_weights_in_a_file_that_is_not_listed_are_refused(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100)
    data = json.loads((folder / "losparse.json").read_text())
    data["files"] = {"model.onnx": file_record(folder / "model.onnx")}
    (folder / "losparse.json").write_text(json.dumps(data))
    with pytest.raises(FolderError, match=r"takes weights from 'weights\.bin', which losparse\.json does not list"):
        Session(folder)
    data["files"]["weights.bin"] = file_record(folder / "weights.bin")
    (folder / "losparse.json").write_text(json.dumps(data))
    assert Session(folder).run({"input_ids": np.array([[2, 4, 3]])})["logits"].shape == (1, 3)


def test_weights_are_looked_for_beside_the_model_in_its_folder(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder.path / "onnx").mkdir()
    onnx.save(
        onnx.load(folder.path / "model.onnx"),
        folder.path / "onnx" / "model.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=100,  # shape constants stay inside
    )
    names = ("onnx/model.onnx", "onnx/w.bin")
    data = json.loads((folder.path / "losparse.json").read_text())
    flat = {name: data[name] for name in ("precision", "opset", "ir_version", "session", "parity")}
    variant = {**flat, "graphs": {"model": {"file": names[0], "fingerprint": data["fingerprint"]}}}
    signature = {name: data[name] for name in ("inputs", "outputs")}
    folder.edit(
        lambda data: data.update(
            format=4,
            graphs={"model": signature},
            variants={"fp32": variant},
            files={name: file_record(folder.path / name) for name in names},
        )
    )
    (folder.path / "model.onnx").unlink()
    assert Session(folder.path, threads=1).classify(["a"])
    folder.edit(lambda data: data["files"].pop(names[1]))
    with pytest.raises(FolderError, match=r"onnx/model\.onnx takes weights from 'onnx/w\.bin', which losparse\.json"):
        Session(folder.path, threads=1)
