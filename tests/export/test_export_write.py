"""Models are written with their weights inside or beside them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from losparse_export import lower_model, plan_model
from losparse_export.folder.metadata import describe_graph, graph_metadata
from losparse_export.folder.model import (
    fingerprint,
    model_sizes,
    save_model,
    weight_bytes,
)
from losparse_runtime import Session, read_folder, verify_files
from losparse_runtime.checking.folder import changed_description
from losparse_runtime.contract.files import METADATA_FILE, record_files, write_metadata
from losparse_runtime.contract.folder import Folder, Source
from losparse_runtime.contract.records import FileRecord
from losparse_runtime.contract.variant import ModelFile, Variant

from .blocks import finish_model
from .builders import LAYER, layer_graph, make_layer


@pytest.fixture
def model() -> ir.Model:
    torch.manual_seed(0)
    graph = layer_graph(make_layer(24, 16, rank=2, kept=3))
    return lower_model(graph, plan_model(graph).choose({LAYER: "gather"}))


@pytest.mark.parametrize(
    ("external_from", "files"), [(10**6, {"model.onnx"}), (100, {"model.onnx", "model.onnx.data"})]
)
def test_save_model(model, tmp_path, external_from, files):
    wide = make_layer(64, 64, rank=30, kept=3)  # 2 x 7,680 bytes of factors: above the 1,024 that stay inline
    graph = layer_graph(wide)
    model = finish_model(lower_model(graph, plan_model(graph).choose({LAYER: "gather"})))
    save_model(model, tmp_path, external_from=external_from)
    records = record_files(tmp_path)
    assert set(records) == set(os.listdir(tmp_path)) == files
    for name, record in records.items():
        data = (tmp_path / name).read_bytes()
        assert record == FileRecord(len(data), hashlib.sha256(data).hexdigest())
        assert not (tmp_path / name).is_symlink()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    x = torch.rand(2, 3, 64)
    with torch.no_grad():  # sums of 64 terms of magnitude 0.3: rounding below 1e-5
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], wide(x).numpy(), rtol=0, atol=1e-5)


def test_weights_that_no_message_can_hold_are_apart_whatever_was_asked_for(model, tmp_path):
    save_model(model, tmp_path, external_from=10**12, inline_at_most=weight_bytes(model))
    assert not (tmp_path / "model.onnx.data").exists()
    save_model(model, tmp_path, external_from=10**12, inline_at_most=weight_bytes(model) - 1)
    assert (tmp_path / "model.onnx.data").exists()


def test_small_tensors_stay_inline(model, tmp_path):
    save_model(model, tmp_path, external_from=0)
    stored = ir.load(tmp_path / "model.onnx").graph.initializers
    external = {name for name, value in stored.items() if isinstance(value.const_value, ir.ExternalTensor)}
    assert external == {name for name, value in stored.items() if value.const_value.nbytes > 1024}
    assert f"{LAYER}.pads" in stored and f"{LAYER}.pads" not in external


def test_every_file_but_the_metadata_is_recorded(tmp_path):
    for name, text in {"model.onnx": "abc", "vocab.txt": "a", METADATA_FILE: "{}"}.items():
        (tmp_path / name).write_text(text)
    records = record_files(tmp_path)
    assert list(records) == ["model.onnx", "vocab.txt"]
    assert records["vocab.txt"] == FileRecord(1, hashlib.sha256(b"a").hexdigest())


def test_weight_bytes(model):
    # rows 3x16, v 2x16, u 24x2, bias 24: floats; place_of 24, pads 2, axis 1: int64
    assert weight_bytes(model) == 4 * (48 + 32 + 48 + 24) + 8 * (24 + 2 + 1)


def test_fingerprint_is_of_what_is_computed(model):
    before = fingerprint(model)
    model.metadata_props["x"] = "y"
    model.producer_name = "somebody"
    assert fingerprint(model) == before == fingerprint(model.clone())
    weight = model.graph.initializers[f"{LAYER}.bias"]
    weight.const_value = ir.tensor(weight.const_value.numpy() + 1e-6, name=weight.name)
    assert fingerprint(model) != before


def test_fingerprint_sees_attributes(model):
    before = fingerprint(model)
    node = next(node for node in model.graph if node.op_type == "Gather")
    node.attributes["axis"] = ir.AttrInt64("axis", 1)
    assert fingerprint(model) != before


def identity(scale: float) -> ir.Model:
    """A graph of one input and one output, whose numbers are the scale times larger."""
    x = ir.val("input_ids", ir.DataType.INT64, ["batch", "sequence"])
    factor = ir.Value(name="factor", const_value=ir.tensor(np.float32([scale, scale]), name="factor"))
    cast = ir.node("Cast", [x], attributes={"to": ir.DataType.FLOAT})
    wide = ir.node("Unsqueeze", [cast.outputs[0], ir.Value(name="last", const_value=ir.tensor([-1], name="last"))])
    out = ir.node("Mul", [wide.outputs[0], factor])
    out.outputs[0].name, out.outputs[0].dtype = "last_hidden_state", ir.DataType.FLOAT
    out.outputs[0].shape = ir.Shape(["batch", "sequence", 2])
    constants = [factor, wide.inputs[1]]
    graph = ir.Graph([x], out.outputs, nodes=[cast, wide, out], initializers=constants, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_two_variants_are_written_by_what_writes_one(tmp_path):
    """Each file says what it is, and `losparse check` finds that the folder says the same."""
    graphs = {"fp32": identity(1.0), "int8": identity(2.0)}
    files = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
    parity = {"max_abs": 0.0, "max_rel": 0.0, "tolerance": 1e-4, "cases": []}
    variants = {
        name: Variant(
            name,
            None,
            20,
            10,
            {"model": ModelFile(files[name], fingerprint(graph))},
            (),
            mixes_texts=name == "int8",  # as an export in int8 says it
        )
        for name, graph in graphs.items()
    }
    folder = Folder(
        task="feature-extraction",
        source=Source("toy", "toy", "ToyModel", compressed=False, method=None),
        graphs={"model": describe_graph(graphs["fp32"])},
        variants=variants,
        files={},
        labels=None,
        max_length=8,
        type_ids=True,
        pooling="mean",
        normalize=False,
        embedding=None,
        parameters={"model": 2, "layers": 0, "layers_dense": 0},
        versions={"losparse": "0"},
    )
    for name, graph in graphs.items():
        graph.metadata_props.update(graph_metadata(folder, name, "model", "no plan"))
        save_model(graph, tmp_path, file=files[name])
        folder = folder.measured(name, parity=parity)
    folder = replace(folder, files=record_files(tmp_path))
    write_metadata(tmp_path, folder)
    verify_files(tmp_path)
    assert read_folder(tmp_path) == folder and folder.format == 4
    assert model_sizes(folder) == {name: (tmp_path / name).stat().st_size for name in files.values()}
    for name, scale in (("fp32", 1), ("int8", 2)):
        session = Session(tmp_path, threads=1, variant=name)
        assert session.run({"input_ids": np.array([[3]])})["last_hidden_state"].tolist() == [[[3 * scale, 3 * scale]]]
        assert changed_description(session) == []
    data = json.loads((tmp_path / "losparse.json").read_text())
    data["variants"]["int8"]["precision"] = "fp16"
    (tmp_path / "losparse.json").write_text(json.dumps(data))
    assert changed_description(Session(tmp_path, threads=1, variant="fp32")) == []
    (line,) = changed_description(Session(tmp_path, threads=1, variant="int8"))
    assert line == 'losparse.json: precision is "fp16", the model file has "int8"'
