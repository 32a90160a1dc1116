"""Options of execution providers: how they are written, that they arrive, and that none is dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from losparse_runtime import InputError, ProviderError, Session, read_metadata
from losparse_runtime.engine.opening import open_model
from losparse_runtime.engine.options import Options, parse_provider, provider_settings

from .test_runtime_providers import PretendedSession, pretended

MakeFolder = Callable[..., Any]
CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
AZURE = "AzureExecutionProvider"  # is in every onnxruntime, and has no operator


class Reporting(PretendedSession):
    """Reports the options of CUDA that it knows, as the GPU wheel does."""

    def __init__(self, *args: Any, providers: list[Any], **kwargs: Any) -> None:
        self.asked = providers
        super().__init__(*args, providers=[each if isinstance(each, str) else each[0] for each in providers], **kwargs)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA: {"device_id": "0", "gpu_mem_limit": "9"}, CPU: {}}


def open_in(ort: ModuleType, folder: Path, **options: Any) -> Any:
    return open_model(folder, read_metadata(folder), Options(threads=1, **options), ort=ort)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (CUDA, CUDA),
        (f"{CUDA}:device_id=1", (CUDA, {"device_id": "1"})),
        (f"{CUDA}:device_id=1,gpu_mem_limit=2147483648", (CUDA, {"device_id": "1", "gpu_mem_limit": "2147483648"})),
        (
            f"{TENSORRT}:trt_profile_min_shapes=input_ids:1x1,attention_mask:1x1,device_id=0",
            (TENSORRT, {"trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1", "device_id": "0"}),
        ),
        (f"{CUDA}:note=a=b,empty=", (CUDA, {"note": "a=b", "empty": ""})),
    ],
)
def test_a_provider_as_a_command_line_has_it(text: str, read: Any) -> None:
    assert parse_provider(text) == read


@pytest.mark.parametrize("text", ["", ":a=1", f"{CUDA}:", f"{CUDA}:device_id", f"{CUDA}:=1", f"{CUDA}:a=1,a=2"])
def test_what_is_no_provider(text: str) -> None:
    with pytest.raises(ProviderError, match=r"^a provider must be NAME or NAME:option=value,option=value"):
        parse_provider(text)


@pytest.mark.parametrize(
    "providers", [[(CUDA,)], [(CUDA, 1)], [(CUDA, {"a": 1}), CUDA], [(1, {})], [(CUDA, {1: "a"})], [(CUDA, {"a": [1]})]]
)
def test_pairs_of_another_form_are_refused(providers: Any) -> None:
    with pytest.raises(ProviderError, match=r"^(providers must be names|options of CUDAExecutionProvider must be)"):
        provider_settings(providers)


def test_options_arrive_as_onnxruntime_takes_them(make_folder: MakeFolder) -> None:
    settings = provider_settings([(CUDA, {"device_id": 0, "gpu_mem_limit": "9"}), CPU])
    opened = open_in(
        pretended(InferenceSession=Reporting), make_folder().path, providers=(CUDA, CPU), settings=settings
    )
    assert opened.asked == [(CUDA, {"device_id": "0", "gpu_mem_limit": "9"}), CPU]


def test_an_option_that_is_dropped_in_silence_is_refused(make_folder: MakeFolder) -> None:
    folder, ort = make_folder().path, pretended(InferenceSession=Reporting)
    said = r"^CUDAExecutionProvider has no option 'device', it has device_id, gpu_mem_limit; leave it out$"
    for fallback in (False, True):
        with pytest.raises(ProviderError, match=said):
            open_in(ort, folder, providers=(CUDA,), settings={CUDA: {"device": "1"}}, allow_fallback=fallback)
    with pytest.raises(ProviderError, match=r"^CPUExecutionProvider has no option 'arena', it has none; leave it out$"):
        Session(folder, [(CPU, {"arena": "1"})], threads=1)


@pytest.mark.parametrize("words", ['Unknown provider option: "device".', "Invalid OpenVINO EP option: nonsense"])
def test_an_option_that_the_provider_refuses_is_no_reason_to_fall_back(make_folder: MakeFolder, words: str) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(words)

    said = rf"^CUDAExecutionProvider does not take its options: {re.escape(words)}; leave out the one that is"
    for fallback in (False, True):
        with pytest.raises(ProviderError, match=said):
            open_in(
                pretended(InferenceSession=refuse),
                make_folder(name=f"made{fallback}").path,
                providers=(CUDA,),
                settings={CUDA: {"device": "1"}},
                allow_fallback=fallback,
            )


def test_nodes_that_would_run_on_the_cpu_are_refused(
    make_folder: MakeFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder().path
    assert Session(folder, [AZURE], threads=1).providers == (AZURE, CPU)
    with pytest.raises(ProviderError, match=r"made/model.onnx: some of its nodes do not run on Az.* leave cpu_nodes"):
        Session(folder, [AZURE], threads=1, cpu_nodes=False)
    capfd.readouterr()  # onnxruntime writes the same to stderr


def test_a_provider_without_any_operator_is_told(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    """As OpenVINO is where it does not have the device of its options."""
    with caplog.at_level("WARNING"):
        Session(make_folder().path, [AZURE], threads=1)
    assert re.search(
        r"made: no operator runs on AzureExecutionProvider: \d+ on CPUExecutionProvider; cpu_", caplog.text
    )


class Failure(Exception):
    """What onnxruntime raises of a provider that compiles: none of Python's kinds."""


def test_what_a_provider_says_at_the_end_is_told(make_folder: MakeFolder) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        if kwargs["providers"] != [CPU]:
            raise Failure("onnxruntime::BasicBackend(" + "std::string, " * 99 + "\nno such operator: Attention\n")
        return onnxruntime.InferenceSession(*args, **kwargs)

    folder, ort = make_folder().path, pretended(InferenceSession=fail)
    said = r"^onnxruntime cannot start CUDAExecutionProvider: \.\.\.[^\n]*no such operator: Attention; "
    with pytest.raises(ProviderError, match=said):
        open_in(ort, folder, providers=(CUDA,))
    assert open_in(ort, folder, providers=(CUDA,), allow_fallback=True).get_providers() == [CPU]


@pytest.mark.parametrize("options", [{"providers": [CPU]}, {"providers": [CUDA], "allow_fallback": True}])
def test_no_nodes_on_the_cpu_and_the_cpu_do_not_go_together(make_folder: MakeFolder, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^cpu_nodes=False refuses nodes on the CPU, so neither CPUExecutionProvider"):
        Session(make_folder().path, **options, cpu_nodes=False)


def test_options_are_the_arguments_of_a_session() -> None:
    settings = {CUDA: {"device_id": "1"}}
    options = Options((CUDA, TENSORRT), 2, spinning=False, settings=settings, cpu_nodes=False)
    arguments = options.arguments()
    assert arguments["providers"] == [[CUDA, {"device_id": "1"}], TENSORRT]
    assert provider_settings(arguments.pop("providers")) == {CUDA: {"device_id": "1"}, TENSORRT: {}}
    assert Options((CUDA, TENSORRT), settings=settings, **arguments) == options


def test_the_real_onnxruntime_reports_options_by_provider() -> None:
    """What `require_settings` reads."""
    from losparse_runtime.doctor.one_node import one_node_model

    session = onnxruntime.InferenceSession(one_node_model(), providers=[CPU])
    assert session.get_provider_options() == {CPU: {}}
