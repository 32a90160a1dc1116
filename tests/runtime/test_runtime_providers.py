"""Execution providers: which are refused, which are fallen back from, and what is said of the way to CUDA."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from losparse_runtime import ProviderError, Session, read_metadata
from losparse_runtime.dependencies import installed_onnxruntimes
from losparse_runtime.engine import opening as opening_module
from losparse_runtime.engine import providers as providers_module
from losparse_runtime.engine.options import Options

MakeFolder = Callable[..., Any]

CUDA = "CUDAExecutionProvider"

CPU = "CPUExecutionProvider"


class PretendedSession(onnxruntime.InferenceSession):  # type: ignore[misc]
    """Runs on the CPU, and says that it runs on all providers that it was asked for."""

    def __init__(self, *args: Any, providers: list[str], **kwargs: Any) -> None:
        super().__init__(*args, providers=[name for name in providers if name != CUDA] or [CPU], **kwargs)
        self.shown = self.of(providers)

    def of(self, asked: list[str]) -> list[str]:
        return asked

    def get_providers(self) -> list[str]:
        return [*self.shown, *([] if CPU in self.shown else [CPU])]


class DroppingSession(PretendedSession):
    """Drops CUDA without a word, as the GPU wheel does where CUDA cannot load."""

    def of(self, asked: list[str]) -> list[str]:
        return [name for name in asked if name != CUDA]


def pretended(**parts: Any) -> ModuleType:
    """Return an onnxruntime that lists CUDA, with these parts in place of its own."""
    module = ModuleType("pretended")
    listed = {"get_available_providers": lambda: [CUDA, CPU]}
    # Without a wheel for CUDA there is nothing to load, and its libraries are none of these tests'.
    module.__dict__.update(vars(onnxruntime) | listed | {"preload_dlls": lambda: None} | parts)
    return module


def open_in(ort: ModuleType, folder: Path, providers: list[str], *, allow_fallback: bool = False) -> list[str]:
    """Open a folder in an onnxruntime, and return the providers that it runs on."""
    options = Options(tuple(providers), threads=1, allow_fallback=allow_fallback)
    found: list[str] = opening_module.open_model(folder, read_metadata(folder), options, ort=ort).get_providers()
    return found


@pytest.mark.parametrize("spinning", [True, False])
def test_settings_reach_onnxruntime(make_folder: MakeFolder, spinning: bool) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def record(path: str, settings: Any, **kwargs: Any) -> Any:
        calls.append((settings, {"path": path, **kwargs}))
        return onnxruntime.InferenceSession(path, settings, **kwargs)

    folder = make_folder().edit(lambda data: data["session"].update(disabled_optimizers=["BiasGeluFusion"]))
    options = Session(folder.path, threads=2, spinning=spinning).options
    opening_module.open_model(folder.path, read_metadata(folder.path), options, ort=pretended(InferenceSession=record))
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
        (
            [],
            r"^providers must be names, at least one and each once, as in \['CPUExecutionProvider'\] or .*, got \[\]$",
        ),
        ([CPU, CPU], r"^providers must be names, at least one and each once"),
        ([1], r"^providers must be names, at least one and each once, .* got \[1\]$"),
        (
            ["cuda"],
            r"^provider 'cuda' is not a name that onnxruntime knows; this onnxruntime has .*CPUExecutionProvider",
        ),
        ([CUDA], r"^provider CUDAExecutionProvider is not installed; this onnxruntime has .*losparse\[gpu\]' for CUDA"),
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


def test_a_provider_that_stays_is_no_error(make_folder: MakeFolder) -> None:
    assert open_in(pretended(InferenceSession=PretendedSession), make_folder().path, [CUDA]) == [CUDA, CPU]


def test_cuda_of_pip_is_loaded_before_a_cuda_session_and_only_then(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder().path
    calls: list[str] = []

    def preload() -> None:
        calls.append("preload")
        print("Failed to load libcublasLt.so.13")

    ort = pretended(InferenceSession=PretendedSession, preload_dlls=preload)
    open_in(ort, folder, [CPU])
    assert calls == []
    with caplog.at_level(logging.INFO, logger="losparse_runtime.engine.providers"):
        open_in(ort, folder, [CUDA])
    assert calls == ["preload"]
    assert capsys.readouterr().out == "", "standard output is the command's"
    assert "libcublasLt.so.13" in caplog.text


def test_a_provider_dropped_in_silence_is_an_error(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder, ort = make_folder().path, pretended(InferenceSession=DroppingSession)
    message = r"^onnxruntime dropped CUDAExecutionProvider and runs on CPUExecutionProvider .* allow_fallback=True"
    with pytest.raises(ProviderError, match=message):
        open_in(ort, folder, [CUDA, CPU])
    with caplog.at_level(logging.WARNING):
        assert open_in(ort, folder, [CUDA], allow_fallback=True) == [CPU]
    assert "onnxruntime dropped CUDAExecutionProvider" in caplog.text


def test_a_provider_that_cannot_start(make_folder: MakeFolder) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        if CUDA in kwargs["providers"]:
            raise RuntimeError("no device\nfound")
        return onnxruntime.InferenceSession(*args, **kwargs)

    folder, ort = make_folder().path, pretended(InferenceSession=fail)
    with pytest.raises(
        ProviderError, match=r"^onnxruntime cannot start CUDAExecutionProvider: no device found; pip uninst"
    ):
        open_in(ort, folder, [CUDA])
    assert open_in(ort, folder, [CUDA], allow_fallback=True) == [CPU]


@pytest.mark.parametrize(
    ("installed", "way_out"),
    [
        (["onnxruntime"], r"; pip uninstall onnxruntime, then pip install 'losparse\[gpu\]' for CUDA, or run"),
        (
            ["onnxruntime-gpu"],
            r"; install the NVIDIA driver, and CUDA and cuDNN \(pip install 'onnxruntime-gpu\[cuda,cudnn\]'\), or run",
        ),
        ([], r"; pip install 'losparse\[gpu\]' for CUDA, or run"),  # built from source
        (
            ["onnxruntime", "onnxruntime-gpu"],
            r"; onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            r"pip uninstall onnxruntime onnxruntime-gpu, then pip install 'losparse\[gpu\]' for CUDA, or run",
        ),
    ],
)
def test_the_way_to_cuda_goes_by_what_is_installed(make_folder: MakeFolder, installed: list[str], way_out: str) -> None:
    assert re.search(way_out, f"; {providers_module.way_to_cuda(installed)}, or run")
    with pytest.raises(ProviderError, match=re.escape(providers_module.way_to_cuda(installed_onnxruntimes()))):
        Session(make_folder().path, providers=[CUDA])
