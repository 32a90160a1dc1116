"""Opening a session: threads, and a model that is the one its metadata describes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from losparse_runtime import FolderError, InputError, RunError, Session, read_metadata
from losparse_runtime.engine import opening as opening_module
from losparse_runtime.engine.cpus import available_cpus
from losparse_runtime.engine.held import Held
from losparse_runtime.engine.options import Options

from .conftest import file_record

MakeFolder = Callable[..., Any]
CPU = "CPUExecutionProvider"


def resize(folder: Any) -> Any:
    """Make the metadata's size that of the file, to get past the cheap check to the one under test."""
    size = (folder.path / "model.onnx").stat().st_size
    return folder.edit(lambda data: data["files"]["model.onnx"].update(bytes=size))


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """This thread may run on one CPU only."""
    granted = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(granted)})
    yield
    os.sched_setaffinity(0, granted)


def test_a_session_says_what_it_is(make_folder: MakeFolder) -> None:
    folder = make_folder()
    session = Session(str(folder.path), threads=1)
    assert session.folder == folder.path
    assert session.task == session.metadata.task == "text-classification"
    assert session.labels == ("red", "green", "blue")
    assert session.max_length == 16
    assert [spec.name for spec in session.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [spec.name for spec in session.outputs] == ["logits"]
    assert session.providers == (CPU,)
    assert session.threads == 1
    assert "text-classification" in repr(session)


def test_threads_are_the_cpus_granted_by_default(make_folder: MakeFolder) -> None:
    assert Session(make_folder().path).threads == available_cpus()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system grants all CPUs to every process")
@pytest.mark.usefixtures("one_cpu")
def test_fewer_cpus_granted_are_fewer_threads(make_folder: MakeFolder) -> None:
    assert Session(make_folder().path).threads == 1


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_threads_must_be_a_count(make_folder: MakeFolder, threads: Any) -> None:
    with pytest.raises(InputError, match=r"^threads must be a whole number >= 1, got "):
        Session(make_folder().path, threads=threads)


def test_threads_that_would_stop_the_machine_are_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"^threads must be at most 1024, got 100000; leave it out"):
        Session(make_folder().path, threads=100_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"model.onnx: is not an ONNX model or is cut short; copy it"),
        (b"not a model at all" * 20, r"model.onnx: is not an ONNX model or is cut short; copy it"),
        (b"\x08\x0a", r"model.onnx: onnxruntime \d.* cannot open it \(.*\); copy it"),  # a model of no graph
    ],
)
def test_a_damaged_model_is_a_folder_error(make_folder: MakeFolder, content: bytes, message: str) -> None:
    folder = make_folder()
    (folder.path / "model.onnx").write_bytes(content)
    with pytest.raises(FolderError, match=message) as raised:
        Session(resize(folder).path)
    assert "\n" not in str(raised.value)
    assert "ONNXRuntimeError" not in str(raised.value)


def change_model(folder: Any, change: Callable[[onnx.ModelProto], object]) -> Any:
    model = onnx.load(folder.path / "model.onnx")
    change(model)
    onnx.save(model, folder.path / "model.onnx")
    return resize(folder)


def test_the_fingerprints_must_agree(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.edit(lambda data: data.update(fingerprint="0" * 64))
    with pytest.raises(
        FolderError, match=r"model.onnx carries fingerprint .*, losparse.json says 0000.* export the fol"
    ):
        Session(folder.path)
    change_model(folder, lambda model: model.ClearField("metadata_props"))
    with pytest.raises(FolderError, match=r"model.onnx carries fingerprint none, losparse.json says 0000"):
        Session(folder.path)


def test_the_tensors_must_agree(make_folder: MakeFolder) -> None:
    folder = make_folder(types=False)
    spec = {"name": "token_type_ids", "dtype": "int64", "shape": ["batch", "sequence"]}
    folder.edit(lambda data: data["inputs"].append(spec))
    with pytest.raises(
        FolderError, match=r"the model's inputs are input_ids int64 .*, losparse.json says .*token_type"
    ):
        Session(folder.path)


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"shape": ["batch", 2]}])
def test_types_and_sizes_of_outputs_must_agree(make_folder: MakeFolder, change: dict[str, Any]) -> None:
    folder = make_folder().edit(lambda data: data["outputs"][0].update(change))
    folder.edit(lambda data: data.update(labels=["red", "green", "blue"][: 2 if "shape" in change else 3]))
    with pytest.raises(FolderError, match=r"the model's outputs are logits float32 \['batch', 3\], losparse.json says"):
        Session(folder.path)


def test_the_names_of_free_axes_need_not_agree(make_folder: MakeFolder) -> None:
    folder = make_folder()
    rename = {"batch": "s0", "sequence": "s1"}

    def change(model: onnx.ModelProto) -> None:
        for value in [*model.graph.input, *model.graph.output]:
            for axis in value.type.tensor_type.shape.dim:
                axis.dim_param = rename.get(axis.dim_param, axis.dim_param)

    assert Session(change_model(folder, change).path, threads=1).classify("a")[0].label in ("red", "green", "blue")


def test_external_weights_are_read_by_path(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    expected = Session(folder.path, threads=1).run({"input_ids": np.array([[4, 5]])})
    model = onnx.load(folder.path / "model.onnx")
    options: dict[str, Any] = {"all_tensors_to_one_file": True, "location": "model.onnx.data", "size_threshold": 100}
    onnx.save(model, folder.path / "model.onnx", save_as_external_data=True, **options)
    weights = file_record(folder.path / "model.onnx.data")
    folder.edit(lambda data: data["files"].update({"model.onnx.data": weights}))
    session = Session(resize(folder).path, threads=1)
    np.testing.assert_array_equal(session.run({"input_ids": np.array([[4, 5]])})["logits"], expected["logits"])
    (folder.path / "model.onnx.data").unlink()
    with pytest.raises(FolderError, match=r"model.onnx.data: missing, but losparse.json names it"):
        Session(folder.path)


def test_an_error_inside_onnxruntime_is_one_line(make_folder: MakeFolder) -> None:
    session = Session(make_folder().path, threads=1)

    class Failing:
        def run(self, names: object, feed: object) -> None:
            raise MemoryError("out of\nmemory")

    session._held = Held(Failing(), session.folder)
    with pytest.raises(RunError, match=r"made: onnxruntime failed on input_ids \(1, 2\): out of memory$"):
        session.run({"input_ids": np.array([[4, 5]])})


def test_threads_share_a_session(make_folder: MakeFolder) -> None:
    session = Session(make_folder().path, threads=1)
    texts = [" ".join("abcdefg"[: 1 + i % 7]) for i in range(40)]
    expected = session.classify(texts)
    results: list[Any] = [None] * 4

    def work(index: int) -> None:
        # Different limits: one thread's truncation must not reach another's texts.
        session.encode(texts, max_length=3 + index)
        results[index] = session.classify(texts, batch_size=5)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in results:
        assert [item.label for item in result] == [item.label for item in expected]
        np.testing.assert_allclose([r.score for r in result], [e.score for e in expected], rtol=1e-5)


def test_options_are_checked_where_they_are_made() -> None:
    with pytest.raises(InputError, match="threads must be"):
        Options((CPU,), threads=0)


@pytest.mark.parametrize(("bits", "overflows", "refused"), [(8, True, True), (8, False, False), (7, True, False)])
def test_weights_of_eight_bits_are_refused_where_they_overflow(
    make_folder: MakeFolder, bits: int, overflows: bool, refused: bool
) -> None:
    folder = make_folder().edit(lambda data: data.update(weight_bits=bits, format=2)).path
    metadata, options = read_metadata(folder), Options((CPU,), threads=1)
    said = r"weights of 8 bits are for CPUs with VNNI, .* again with --weight-bits 7$"
    assert metadata.weight_bits == bits
    with pytest.raises(FolderError, match=said) if refused else nullcontext():
        opening_module.open_model(folder, metadata, options, overflows=lambda: overflows)
