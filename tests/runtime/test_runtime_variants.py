"""Folders of several variants and of several graphs: written, read, verified and opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from losparse.saving.contents import inspect_folder
from losparse_export import check_folder
from losparse_runtime import FolderError, InputError, Session, peak_memory, read_folder, read_metadata, verify_files
from losparse_runtime.checking.folder import open_checked
from losparse_runtime.contract.embedding import Embedding
from losparse_runtime.contract.fields import Fields
from losparse_runtime.contract.files import changed_files, record_files, write_metadata
from losparse_runtime.contract.folder import Folder, parse_folder
from losparse_runtime.contract.metadata import select
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import TensorSpec
from losparse_runtime.contract.variant import ModelFile, Variant

MakeFolder = Callable[..., Any]

PARITY = {"max_abs": 0.0, "max_rel": 0.0, "tolerance": 1e-4, "cases": [{"batch": 1, "length": 3}]}
IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
HIDDEN = TensorSpec("encoder_hidden_states", "float32", ("batch", "source", 2))
STATES = TensorSpec("last_hidden_state", "float32", ("batch", "sequence", 2))
LOGITS = TensorSpec("logits", "float32", ("batch", "sequence", 2))
TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def save_graph(file: Path, signature: Signature, nodes: list[onnx.NodeProto], table: list[list[float]]) -> ModelFile:
    """Write a toy graph that looks tokens up in a table, with a fingerprint of its own."""
    tensors = [
        [helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape) for spec in specs]
        for specs in (signature.inputs, signature.outputs)
    ]
    constants = [numpy_helper.from_array(np.array(table, np.float32), "table")]
    graph = helper.make_graph(nodes, "toy", *tensors, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    fingerprint = hashlib.sha256(model.SerializeToString()).hexdigest()
    model.metadata_props.add(key="losparse.fingerprint", value=fingerprint)
    onnx.save(model, file)
    return ModelFile(file.name, fingerprint)


def embed(file: Path, table: list[list[float]]) -> ModelFile:
    """The graph of an encoder: rows of a table."""
    lookup = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    return save_graph(file, Signature((IDS,), (STATES,)), [lookup], table)


def decode(file: Path, table: list[list[float]]) -> ModelFile:
    """The graph of a decoder: rows of a table, and the sum of what the encoder said."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("ReduceSum", ["encoder_hidden_states", "one"], ["read"]),
        helper.make_node("Add", ["rows", "read"], ["logits"]),
    ]
    return save_graph(file, Signature((IDS, HIDDEN), (LOGITS,)), nodes, table)


def variant(models: dict[str, ModelFile], precision: str, **measured: Any) -> Variant:
    mixes = {"mixes_texts": precision == "int8"}
    return Variant(precision, None, 20, 10, models, (), **{"parity": PARITY, **mixes, **measured})


def contents(path: Path, like: Folder, graphs: dict[str, Signature], variants: dict[str, Variant]) -> Folder:
    """Write what a folder holds beside its graphs."""
    made = replace(like, graphs=graphs, variants=variants, files=record_files(path), embedding=Embedding())
    write_metadata(path, made)
    return made


@pytest.fixture
def two_variants(make_folder: MakeFolder) -> Path:
    """A folder whose "int8" gives twice the numbers of its "fp32"."""
    path: Path = make_folder("feature-extraction").path
    like = read_folder(path)
    models = {
        name: embed(path / file, [[each, 10 * each] for each in range(0, 12 * scale, scale)])
        for name, file, scale in (("fp32", "model.onnx", 1), ("int8", "model.int8.onnx", 2))
    }
    variants = {name: variant({"model": model}, name) for name, model in models.items()}
    variants["int8"] = replace(
        variants["int8"], weight_bits=7, accuracy={"texts": 2, "onnx": 0.5}, times={"1x128, threads 1": 0.25}
    )
    contents(path, like, {"model": Signature((IDS,), (STATES,))}, variants)
    return path


@pytest.fixture
def two_graphs(make_folder: MakeFolder) -> Path:
    """A folder with an encoder and a decoder."""
    path: Path = make_folder("feature-extraction").path
    like = read_folder(path)
    (path / "model.onnx").unlink()
    table = [[each, 10 * each] for each in range(12)]
    models = {"encoder": embed(path / "encoder.onnx", table), "decoder": decode(path / "decoder.onnx", table)}
    graphs = {"encoder": Signature((IDS,), (STATES,)), "decoder": Signature((IDS, HIDDEN), (LOGITS,))}
    contents(path, like, graphs, {"fp32": variant(models, "fp32")})
    return path


def test_a_folder_of_two_variants_is_read_as_it_was_written(two_variants: Path) -> None:
    folder = read_folder(two_variants)
    assert folder.format == json.loads((two_variants / "losparse.json").read_text())["format"] == 4
    assert list(folder.variants) == ["fp32", "int8"] and list(folder.graphs) == ["model"]
    assert folder.variants["int8"].accuracy == {"texts": 2, "onnx": 0.5}
    assert folder.variants["int8"].times == {"1x128, threads 1": 0.25}
    assert parse_folder(Fields(two_variants, folder.to_json())) == folder
    verify_files(two_variants)
    assert changed_files(two_variants) == []


def test_each_variant_opens_by_its_name(two_variants: Path) -> None:
    chosen, fp32, int8 = (Session(two_variants, threads=1, variant=name) for name in (None, "fp32", "int8"))
    feeds = {"input_ids": np.array([[3, 4]])}
    for session, scale in ((chosen, 2), (fp32, 1), (int8, 2)):
        assert session.run(feeds)["last_hidden_state"].tolist() == [[[3 * scale, 30 * scale], [4 * scale, 40 * scale]]]
    assert (fp32.metadata.precision, int8.metadata.precision, int8.metadata.weight_bits) == ("fp32", "int8", 7)
    sizes = {name: read_metadata(two_variants, name).model_bytes for name in ("fp32", "int8")}
    assert sizes == {
        "fp32": (two_variants / "model.onnx").stat().st_size,
        "int8": (two_variants / "model.int8.onnx").stat().st_size,
    }
    assert int8.embed("a").shape == (1, 2)


def test_memory_is_measured_of_the_variant_that_is_open(two_variants: Path) -> None:
    (two_variants / "model.int8.onnx").write_bytes(b"")  # only a process that opens this one fails
    data = json.loads((two_variants / "losparse.json").read_text())
    data["files"]["model.int8.onnx"]["bytes"] = 0
    (two_variants / "losparse.json").write_text(json.dumps(data))
    session = Session(two_variants, threads=1, variant="fp32")
    assert peak_memory(two_variants, session.options, length=4) > 0
    with pytest.raises(Exception, match=r"model\.int8\.onnx: is not an ONNX model"):
        peak_memory(two_variants, replace(session.options, variant="int8"), length=4)


def test_a_name_that_the_folder_does_not_have(two_variants: Path) -> None:
    with pytest.raises(InputError, match=r"made: variant must be one of those the folder has \(fp32, int8\), got 'fp1"):
        Session(two_variants, variant="fp16")
    with pytest.raises(InputError, match=r"graph must be one of those the folder has \(model\), got 'decoder'"):
        Session(two_variants, graph="decoder")


def test_each_graph_of_two_opens_by_its_name(two_graphs: Path) -> None:
    folder = read_folder(two_graphs)
    assert folder.format == 4 and parse_folder(Fields(two_graphs, folder.to_json())) == folder
    verify_files(two_graphs)
    encoder, decoder = (Session(two_graphs, threads=1, graph=name) for name in (None, "decoder"))
    states = encoder.run({"input_ids": np.array([[1, 2]])})["last_hidden_state"]
    assert states.tolist() == [[[1, 10], [2, 20]]]
    assert decoder.metadata.signature == folder.graphs["decoder"]
    assert [spec.name for spec in decoder.inputs] == ["input_ids", "encoder_hidden_states"]
    given = {"input_ids": np.array([[5]]), "encoder_hidden_states": states}
    assert decoder.run(given)["logits"].tolist() == [[[5 + 1 + 2, 50 + 10 + 20]]]


def test_a_changed_byte_of_any_graph_is_found(two_graphs: Path) -> None:
    content = bytearray((two_graphs / "decoder.onnx").read_bytes())
    content[-1] ^= 1
    (two_graphs / "decoder.onnx").write_bytes(content)
    with pytest.raises(FolderError, match=r"decoder\.onnx: SHA-256 is .*: the file changed after the export"):
        verify_files(two_graphs)


def test_the_files_of_two_variants_are_not_taken_for_each_other(two_variants: Path) -> None:
    one, other = two_variants / "model.onnx", two_variants / "model.int8.onnx"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(FolderError, match=r"model\.int8\.onnx carries fingerprint .*from different exports"):
        Session(two_variants, variant="int8")


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads((path / "losparse.json").read_text())
    change(data)
    (path / "losparse.json").write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(variants={}), r"'variants' must be an object of at least one entry, got {}"),
        (lambda data: data.update(graphs=[]), r"'graphs' must be an object, got \[\]"),
        (lambda data: data["variants"]["int8"].pop("parity"), r"'variants\.int8\.parity' is missing"),
        (lambda data: data["variants"]["int8"].update(times={"a": "fast"}), r"'variants\.int8\.times\.a' must be a f"),
        (lambda data: data["variants"]["int8"]["graphs"].clear(), r"'int8' must have the graphs model, got none"),
        (
            lambda data: data["variants"]["int8"]["graphs"]["model"].update(file="../model.onnx"),
            r"'files\.\.\./model\.onnx' is missing",
        ),
        (lambda data: data["files"].pop("model.int8.onnx"), r"'files\.model\.int8\.onnx' is missing"),
        (lambda data: data["graphs"]["model"].update(inputs=[]), r"'graphs\.model\.inputs' must be a list of at least"),
    ],
)
def test_every_field_of_a_variant_is_checked(
    two_variants: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(FolderError, match=message) as raised:
        read_folder(edited(two_variants, change))
    assert "\n" not in str(raised.value)


def test_one_graph_in_one_variant_is_written_as_before(make_folder: MakeFolder) -> None:
    """Fields in the order of earlier writers; only what they left out is said."""
    path = make_folder().path
    before = json.loads((path / "losparse.json").read_text())
    folder = read_folder(path)
    assert folder.plain and folder.format == 1
    assert folder.to_json() == {**before, "type_ids": True}
    assert list(folder.to_json()) == [
        *("format", "task", "source", "precision", "opset", "ir_version", "inputs", "outputs", "labels", "max_length"),
        *("type_ids", "pooling", "normalize", "session", "parameters", "versions", "fingerprint", "parity", "files"),
    ]


@pytest.mark.parametrize(
    ("embedding", "expected"),
    [
        (Embedding({"query": "", "document": ""}, "query"), 1),
        (Embedding({"query": "q: "}), 1),
        (Embedding({"query": "q: "}, "query"), 3),
        (Embedding(truncate_dim=4), 3),
    ],
)
def test_older_readers_refuse_folders_that_they_would_read_wrong(
    make_folder: MakeFolder, embedding: Embedding, expected: int
) -> None:
    folder = read_folder(make_folder("feature-extraction").path)
    assert replace(folder, embedding=embedding).format == expected
    wide = replace(folder.variants["fp32"], precision="int8", weight_bits=8)
    assert replace(folder, variants={"int8-vnni": wide}).format == 2
    narrow = replace(folder, variants={"int8": replace(wide, weight_bits=7)})
    assert narrow.format == 1 and narrow.to_json()["weight_bits"] == 7


@pytest.mark.parametrize("task", ["regression", "multi-label-classification"])
def test_readers_that_do_not_know_a_task_are_told_that_the_folder_is_newer(make_folder: MakeFolder, task: str) -> None:
    made = make_folder(task)
    folder = read_folder(made.path)  # of format 1, as such folders were written once
    assert Session(made.path, threads=1).task == task
    write_metadata(made.path, folder)
    said = json.loads((made.path / "losparse.json").read_text())
    assert said["format"] == folder.format == 4 and list(said["variants"]) == ["fp32"]
    assert read_folder(made.path) == folder
    assert Session(made.path, threads=1).task == task


def test_a_folder_that_was_not_compared_opens_only_for_its_exporter(make_folder: MakeFolder) -> None:
    folder = make_folder().edit(lambda data: data.update(parity=None))
    assert read_metadata(folder.path).parity is None
    with pytest.raises(
        FolderError, match=r"losparse\.json has no comparison with PyTorch .*; export it again with"
    ) as raised:
        Session(folder.path)
    assert "\n" not in str(raised.value)
    assert Session(folder.path, threads=1, unchecked=True).classify("a")
    measured = read_folder(folder.path).measured(parity=PARITY, accuracy={"onnx": 1.0})
    write_metadata(folder.path, measured)
    session = Session(folder.path, threads=1)
    assert session.metadata.parity == PARITY and session.metadata.variant.accuracy == {"onnx": 1.0}


def test_no_variant_may_lack_its_comparison(two_variants: Path) -> None:
    session, changes = open_checked(two_variants, threads=1)
    assert session is not None and changes == []
    edited(two_variants, lambda data: data["variants"]["int8"].update(parity=None))
    with pytest.raises(
        FolderError, match=r"variant 'int8' has no comparison with PyTorch \('parity' is null\), so its"
    ):
        open_checked(two_variants, threads=1)
    (two_variants / "extra.bin").write_text("x")
    session, changes = open_checked(two_variants, threads=1)
    assert session is None and changes[-1].startswith("it does not open: ")


def test_the_size_is_that_of_all_variants(two_variants: Path) -> None:
    sizes = [(two_variants / name).stat().st_size for name in ("model.onnx", "model.int8.onnx")]
    contents = inspect_folder(two_variants)
    assert (contents.file_bytes, contents.precision, contents.weight_bits) == (sum(sizes), "fp32, int8", 7)


def test_a_check_compares_every_variant_and_names_it(two_variants: Path) -> None:
    report = check_folder(two_variants, two_variants, threads=1)
    assert report.judgement is not None and report.judgement.variant == "fp32"
    assert report.to_dict()["variant"] == "fp32" and all(part.passed for part in report.parts.values())
    other = report.others["int8"]  # which was made to give other numbers
    assert other.judgement is not None and other.judgement.variant == "int8"
    assert not other.passed and not report.passed and not report.to_dict()["others"]["int8"]["passed"]


def test_a_description_is_of_one_graph_in_one_variant(two_variants: Path) -> None:
    folder = read_folder(two_variants)
    metadata = select(folder, "int8")
    said = folder.description("int8", "model")
    assert (said["format"], said["precision"], said["fingerprint"]) == (1, "int8", metadata.fingerprint)
    assert not {"files", "parity", "accuracy"} & set(said)


def test_a_check_of_one_variant_looks_at_no_other(two_variants: Path) -> None:
    report = check_folder(two_variants, two_variants, threads=1, variant="fp32")
    assert report.passed and report.others == {} and report.to_dict()["variant"] == "fp32"
    whole = check_folder(two_variants, two_variants, threads=1)
    assert not whole.passed and list(whole.others) == ["int8"]
    with pytest.raises(InputError, match=r"variant must be one of those the folder has \(fp32, int8\), got 'int4'"):
        check_folder(two_variants, threads=1, variant="int4")
