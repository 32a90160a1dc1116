"""Opening a session: providers, threads, and a model that is the one its metadata describes."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from losparse_runtime import FolderError, InputError, ProviderError, RunError, Session, read_metadata
from losparse_runtime.dependencies import installed_onnxruntimes
from losparse_runtime.engine import opening as opening_module

from .conftest import file_record

MakeFolder = Callable[..., Any]
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def resize(folder: Any) -> Any:
    """Make the metadata's size that of the file, to get past the cheap check to the one under test."""
    size = (folder.path / "model.onnx").stat().st_size
    return folder.edit(lambda data: data["files"]["model.onnx"].update(bytes=size))


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, drop: bool) -> None:
    """An onnxruntime that lists CUDA, and drops it without a word as the GPU wheel does where CUDA cannot load."""
    real = onnxruntime.InferenceSession

    class Pretending(real):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            asked = kwargs["providers"]
            super().__init__(*args, **{**kwargs, "providers": [name for name in asked if name != CUDA] or [CPU]})
            self.shown = [name for name in asked if name != CUDA or not drop]

        def get_providers(self) -> list[str]:
            return [*self.shown, *([] if CPU in self.shown else [CPU])]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Pretending)


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


def test_threads_are_the_cpus_granted_by_default(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert Session(make_folder().path).threads == 1


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_threads_must_be_a_count(make_folder: MakeFolder, threads: Any) -> None:
    with pytest.raises(InputError, match=r"^threads must be a whole number >= 1, got "):
        Session(make_folder().path, threads=threads)


@pytest.mark.parametrize("spinning", [True, False])
def test_settings_reach_onnxruntime(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, spinning: bool) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    real = onnxruntime.InferenceSession

    def record(path: str, settings: Any, **kwargs: Any) -> Any:
        calls.append((settings, {"path": path, **kwargs}))
        return real(path, settings, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    folder = make_folder().edit(lambda data: data["session"].update(disabled_optimizers=["BiasGeluFusion"]))
    Session(folder.path, threads=2, spinning=spinning)
    settings, rest = calls[0]
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (2, 1)
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))
    assert rest == {
        "path": str(folder.path / "model.onnx"),
        "providers": [CPU],
        "enable_fallback": 0,
        "disabled_optimizers": ["BiasGeluFusion"],
    }


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        (CPU, r"^providers must be a list of names, got the string 'CPUExecutionProvider'; write \['CPUExec"),
        ([], r"^providers must be names, at least one and each once, as in \['CPUExecutionProvider'\], got \[\]$"),
        ([CPU, CPU], r"^providers must be names, at least one and each once"),
        ([1], r"^providers must be names, at least one and each once, .* got \[1\]$"),
        (
            ["cuda"],
            r"^provider 'cuda' is not a name that onnxruntime knows; this onnxruntime has .*CPUExecutionProvider",
        ),
        ([CUDA], r"^provider CUDAExecutionProvider is not installed; this onnxruntime has .*losparse\[gpu\] for CUDA"),
    ],
)
def test_providers_that_are_not_there(make_folder: MakeFolder, providers: Any, message: str) -> None:
    with pytest.raises(ProviderError, match=message):
        Session(make_folder().path, providers=providers)


def test_advice_for_cuda_is_for_cuda(make_folder: MakeFolder) -> None:
    with pytest.raises(
        ProviderError, match=r"OpenVINO.* is not installed; .*; install the onnxruntime that has it, or"
    ):
        Session(make_folder().path, providers=["OpenVINOExecutionProvider"])


def test_a_typing_mistake_is_no_reason_to_fall_back(make_folder: MakeFolder) -> None:
    with pytest.raises(ProviderError, match="not a name that onnxruntime knows"):
        Session(make_folder().path, providers=["CUDAExecutionProvder"], allow_fallback=True)


def test_falling_back_is_allowed_and_logged(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session = Session(make_folder().path, providers=[CUDA], allow_fallback=True, threads=1)
    assert session.providers == (CPU,)
    assert "CUDAExecutionProvider is not installed" in caplog.text


def test_a_provider_that_stays_is_no_error(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, drop=False)
    assert Session(make_folder().path, providers=[CUDA], threads=1).providers == (CUDA, CPU)


def test_cuda_of_pip_is_loaded_before_a_cuda_session_and_only_then(
    make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make_folder().path
    pretend_cuda(monkeypatch, drop=False)
    calls: list[str] = []

    def preload() -> None:
        calls.append("preload")
        print("Failed to load libcublasLt.so.13")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    Session(folder, providers=[CPU], threads=1)
    assert calls == []
    with caplog.at_level(logging.INFO, logger="losparse_runtime.engine.opening"):
        Session(folder, providers=[CUDA], threads=1)
    assert calls == ["preload"]
    assert capsys.readouterr().out == "", "standard output is the command's"
    assert "libcublasLt.so.13" in caplog.text


def test_a_provider_dropped_in_silence_is_an_error(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_cuda(monkeypatch, drop=True)
    folder = make_folder().path
    message = r"^onnxruntime dropped CUDAExecutionProvider and runs on CPUExecutionProvider .* allow_fallback=True"
    with pytest.raises(ProviderError, match=message):
        Session(folder, providers=[CUDA, CPU])
    with caplog.at_level(logging.WARNING):
        assert Session(folder, providers=[CUDA], allow_fallback=True).providers == (CPU,)
    assert "onnxruntime dropped CUDAExecutionProvider" in caplog.text


def test_a_provider_that_cannot_start(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession

    def fail(*args: Any, **kwargs: Any) -> Any:
        if CUDA in kwargs["providers"]:
            raise RuntimeError("no device\nfound")
        return real(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    folder = make_folder().path
    with pytest.raises(
        ProviderError, match=r"^onnxruntime cannot start CUDAExecutionProvider: no device found; pip uninst"
    ):
        Session(folder, providers=[CUDA])
    assert Session(folder, providers=[CUDA], allow_fallback=True, threads=1).providers == (CPU,)


@pytest.mark.parametrize(
    ("installed", "way_out"),
    [
        (["onnxruntime"], r"; pip uninstall onnxruntime, then pip install losparse\[gpu\] for CUDA, or run"),
        (
            ["onnxruntime-gpu"],
            r"; install the NVIDIA driver, and CUDA and cuDNN \(pip install onnxruntime-gpu\[cuda,cudnn\]\), or run",
        ),
        ([], r"; pip install losparse\[gpu\] for CUDA, or run"),  # built from source
        (
            ["onnxruntime", "onnxruntime-gpu"],
            r"; onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            r"pip uninstall onnxruntime onnxruntime-gpu, then pip install losparse\[gpu\] for CUDA, or run",
        ),
    ],
)
def test_the_way_to_cuda_goes_by_what_is_installed(make_folder: MakeFolder, installed: list[str], way_out: str) -> None:
    assert re.search(way_out, f"; {opening_module.way_to_cuda(installed)}, or run")
    with pytest.raises(ProviderError, match=re.escape(opening_module.way_to_cuda(installed_onnxruntimes()))):
        Session(make_folder().path, providers=[CUDA])


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

    def fail(names: object, feed: object) -> None:
        raise MemoryError("out of\nmemory")

    session._session = SimpleNamespace(run=fail)
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
        opening_module.Options((CPU,), threads=0)


@pytest.mark.parametrize(("bits", "overflows", "refused"), [(8, True, True), (8, False, False), (7, True, False)])
def test_weights_of_eight_bits_are_refused_where_they_overflow(
    make_folder: MakeFolder, bits: int, overflows: bool, refused: bool
) -> None:
    folder = make_folder().edit(lambda data: data.update(weight_bits=bits, format=2)).path
    metadata, options = read_metadata(folder), opening_module.Options((CPU,), threads=1)
    said = r"weights of 8 bits are for CPUs with VNNI, .* again with --weight-bits 7$"
    assert metadata.weight_bits == bits
    with pytest.raises(FolderError, match=said) if refused else nullcontext():
        opening_module.open_model(folder, metadata, options, overflows=lambda: overflows)
