"""`examine`: what is said of packages, providers, the machine and folders, and what is called a problem."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnxruntime
import pytest

from losparse_runtime import Diagnosis, Finding, examine
from losparse_runtime.doctor import folders, machine, packages, providers
from losparse_runtime.doctor.one_node import one_node_model
from losparse_runtime.engine.cpus import CPU_AMX, CPU_AVX2

MakeFolder = Callable[..., Any]
ROOT = Path(__file__).parents[2]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def the_one(found: list[Finding], about: str, level: str) -> Finding:
    (finding,) = (each for each in found if each.about == about and each.level == level)
    return finding


def test_a_sound_machine_has_no_problem(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    found = examine([folder])
    assert found.passed, [finding for finding in found.findings if finding.level == "problem"]
    abouts = [finding.about for finding in found.findings]
    named = ["python", "losparse", "numpy", "tokenizers", "onnxruntime", "cpu", "threads", "memory", "telemetry"]
    assert not {*named, "shared memory", "open files", "extra serve", CPU, str(folder)} - set(abouts)
    assert all("\n" not in finding.said + finding.way_out for finding in found.findings)
    assert found.to_dict()["findings"][0]["about"] == "python"


def test_a_folder_says_which_variant_opens_and_why(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    (finding,) = folders.look_at_folder(folder)
    assert finding.level == "ok"
    assert finding.said.startswith("variant fp32, the only one; 0.0 MB, opens in ")
    assert finding.facts["variant"] == "fp32"


def test_a_folder_that_does_not_open_is_a_problem_and_not_an_exception(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.edit(lambda data: data.update(fingerprint="0" * 64))
    found = examine([folder.path, folder.path / "nowhere"])
    assert not found.passed
    said = [finding.said for finding in found.findings if finding.level == "problem"]
    assert len(said) == 2 and "different exports" in said[0] and "no such folder" in said[1]


def test_a_folder_on_a_provider_that_is_not_there_is_a_problem(make_folder: MakeFolder) -> None:
    (finding,) = folders.look_at_folder(make_folder().path, [CUDA])
    assert finding.level == "problem" and "losparse[gpu]" in finding.said


def test_a_folder_that_is_large_for_the_memory_is_a_warning(make_folder: MakeFolder) -> None:
    opened, room = folders.look_at_folder(make_folder().path, free=100_000_000)
    assert (opened.level, room.level) == ("ok", "warning")
    assert room.said == "needs about 150 MB while it runs, 100 MB are free"


def test_the_one_node_is_a_model() -> None:
    model = onnx.load_from_string(one_node_model())
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add"]


def pretended(session: Callable[..., Any]) -> ModuleType:
    module = ModuleType("pretended")
    listed = {"get_available_providers": lambda: [CUDA, CPU], "preload_dlls": lambda: None, "InferenceSession": session}
    module.__dict__.update(vars(onnxruntime) | listed)
    return module


def test_providers_that_are_installed_and_compute() -> None:
    assert the_one(providers.look_at_providers(), CPU, "ok").said == "computes"


class Dropping(onnxruntime.InferenceSession):  # type: ignore[misc]
    """Drops CUDA without a word."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(args[0], providers=[CPU])


class Wrong(Dropping):
    """Says that it runs on CUDA, and gives zeros."""

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def run(self, names: Any, feed: Any) -> Any:
        return [0 * feed["x"]]


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("no device\nfound")


@pytest.mark.parametrize(
    ("session", "said"),
    [
        (Dropping, "onnxruntime dropped it"),
        (Wrong, r"it says that [0.0, 1.0, 2.0, 3.0] twice is [0.0, 0.0, 0.0, 0.0]"),
        (refuse, "no device found"),
    ],
)
def test_a_provider_that_does_not_compute_says_why_not(session: Any, said: str) -> None:
    found = providers.look_at_providers(pretended(session))
    cuda = the_one(found, CUDA, "warning")
    assert said in cuda.said and cuda.way_out and cuda.facts == {"usable": False}


def test_a_node_that_the_cpu_would_take_does_not_count() -> None:
    """onnxruntime's provider for services has no node: with it alone a session of the CPU would look like one of it."""
    why_not = None
    try:
        why_not = providers._why_not(onnxruntime, "AzureExecutionProvider")
    except Exception as error:
        why_not = str(error)
    assert why_not is not None and "CPU EP" in why_not


def test_no_onnxruntime_is_one_problem() -> None:
    (finding,) = packages.look_at_onnxruntime(found=[])
    assert finding.level == "problem" and "losparse[runtime]" in finding.way_out


def test_two_onnxruntimes_are_a_problem() -> None:
    versions = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"}
    (finding,) = packages.look_at_onnxruntime(found=list(versions), versions=versions.get)
    assert finding.level == "problem"
    assert finding.said == "installed twice, in one place: onnxruntime 1.31.1, onnxruntime-gpu 1.30.0"
    assert finding.way_out.startswith("pip uninstall onnxruntime onnxruntime-gpu, then pip install")


@pytest.mark.parametrize(
    ("version", "cpu", "int8", "levels"),
    [
        ("1.24.4", CPU_AMX, "OUT", ["problem", "problem"]),
        ("1.22.1", CPU_AMX, None, ["problem", "warning"]),
        ("1.24.4", CPU_AVX2, "OUT", ["problem"]),  # older than the package takes, which is the first of them
        ("1.25.1", CPU_AMX, "OUT", ["problem"]),
        ("1.31.1", CPU_AMX, "OUT", ["ok"]),
    ],
)
def test_versions_that_multiply_wrongly(version: str, cpu: str, int8: str | None, levels: list[str]) -> None:
    found = packages.look_at_onnxruntime(["onnxruntime"], lambda _: version, cpu, int8)
    assert [finding.level for finding in found] == levels


@pytest.mark.parametrize(
    ("versions", "about", "level"),
    [
        ({"numpy": "1.26.4", "tokenizers": "0.23.1"}, "numpy", "problem"),
        ({"numpy": "3.0.0", "tokenizers": "0.23.1"}, "numpy", "problem"),
        ({"numpy": "2.4.6"}, "tokenizers", "problem"),
        ({"numpy": "2.4.6", "tokenizers": "0.23.1"}, "extra serve", "ok"),
        ({"numpy": "2.4.6", "tokenizers": "0.21.0rc1"}, "tokenizers", "ok"),
    ],
)
def test_packages(versions: dict[str, str], about: str, level: str) -> None:
    assert the_one(packages.look_at_packages(versions.get), about, level)


def test_an_older_python_is_a_problem() -> None:
    assert packages.look_at_python((3, 10, 4)).level == "problem"


def test_the_oldest_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = " ".join([*project["dependencies"], *project["optional-dependencies"]["runtime"]])
    for name, least in packages.MINIMUM.items():
        assert f"{name}>={'.'.join(map(str, least))}" in asked
    assert project["requires-python"] == f">={'.'.join(map(str, packages.OLDEST_PYTHON))}"
    served = " ".join(project["optional-dependencies"]["serve"])
    bundled = {"uvloop", "httptools"}  # what uvicorn[standard] brings
    assert all(name in served for name in set(packages.EXTRAS["serve"]) - bundled)


@pytest.mark.parametrize(("value", "level"), [("1", "ok"), ("0", "warning")])
def test_telemetry(value: str, level: str) -> None:
    assert packages.look_at_telemetry({"ORT_DISABLE_TELEMETRY": value}).level == level


@pytest.mark.parametrize(
    ("flags", "environ", "level", "said"),
    [
        ("flags : avx2 avx512f avx512_vnni amx_int8\n", {}, "ok", "(AVX2, AVX-512, VNNI, AMX int8), class cpu-amx"),
        ("flags : avx2\n", {}, "ok", "class cpu-avx2: without VNNI"),
        ("flags : avx2\n", {"LOSPARSE_CPU": "arm"}, "warning", "LOSPARSE_CPU=arm names another"),
    ],
)
def test_cpus(tmp_path: Path, flags: str, environ: dict[str, str], level: str, said: str) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    finding = machine.look_at_cpu(tmp_path / "cpuinfo", environ)
    assert finding.level == level and said in finding.said


def test_a_class_of_cpu_that_does_not_exist_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSPARSE_CPU", "pentium")
    assert the_one(list(examine().findings), "cpu", "problem").said.startswith("$LOSPARSE_CPU must be one of")


@pytest.mark.parametrize(("quota", "level"), [(float("inf"), "ok"), (2.5, "ok"), (0.5, "warning")])
def test_threads(quota: float, level: str) -> None:
    finding = machine.look_at_threads(affinity=4, quota=quota, present=8)
    assert finding.level == level and "4 of 8 CPUs by affinity" in finding.said


@pytest.mark.parametrize(
    ("granted", "level", "said"),
    [
        (None, "ok", "4,096 MB free, no limit"),
        ((2_000_000_000, 500_000_000), "ok", "1,500 MB free, limit 2,000 MB, 500 MB used"),
        ((2_000_000_000, 1_900_000_000), "warning", "100 MB free"),
    ],
)
def test_memory(tmp_path: Path, granted: tuple[int, int] | None, level: str, said: str) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 4000000 kB\n")
    finding = machine.look_at_memory(tmp_path / "meminfo", lambda: granted)
    assert finding.level == level and finding.said.startswith(said)


def test_few_open_files_are_a_warning() -> None:
    assert machine.look_at_open_files(256).level == "warning"
    assert machine.look_at_open_files(100_000).level == "ok"


def test_no_shared_memory_is_none(tmp_path: Path) -> None:
    assert machine.look_at_shared_memory(tmp_path / "none").level == "ok"


def test_a_warning_is_no_failure() -> None:
    assert Diagnosis((Finding("a", "warning", "b"),)).passed
    assert not Diagnosis((Finding("a", "problem", "b"),)).passed
