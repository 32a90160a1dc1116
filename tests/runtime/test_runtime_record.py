"""Folders of several variants in benchmarks, and times that are written into them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from losparse_runtime import (
    Benchmark,
    FolderError,
    InputError,
    Latency,
    Session,
    Timing,
    benchmark,
    open_folders,
    read_folder,
    record_times,
)
from losparse_runtime.contract.files import changed_files
from losparse_runtime.contract.variant import DEFAULT_PROVIDER

from .conftest import MakeFolder
from .several import put_together

QUICK: dict[str, Any] = {"runs": 1, "memory": False}


@pytest.fixture
def both(make_folder: MakeFolder, tmp_path: Path) -> Path:
    folders = {"fp32": make_folder().path, "int8": make_folder(name="other", seed=1).path}
    return put_together(tmp_path / "both", folders, int8={"precision": "int8", "weight_bits": 7})


def timing(model: str, median: float, shape: tuple[int, int] = (1, 4), noisy: bool = False) -> Timing:
    return Timing(*shape, model, Latency(median, median, median, median, 1.0, 10, 1.0, 1.0, 1.0, noisy, None))


def found(folder: Path, *results: Timing, threads: int = 1) -> Benchmark:
    models = {
        name: {"folder": str(folder), "fingerprint": each.models["model"].fingerprint, "variant": name}
        for name, each in read_folder(folder).variants.items()
    }
    return Benchmark((DEFAULT_PROVIDER,), threads, models, results)


def test_all_variants_of_a_folder_are_opened_under_their_names(both: Path, make_folder: MakeFolder) -> None:
    dense = make_folder(name="dense").path
    assert list(open_folders([both], threads=1)) == ["fp32", "int8"]
    opened = open_folders([dense, both], threads=1)
    assert [(name, session.variant) for name, session in opened.items()] == [
        ("dense", "fp32"),
        ("both:fp32", "fp32"),
        ("both:int8", "int8"),
    ]
    assert list(open_folders([dense, (both, "int8")], threads=1)) == ["dense", "both:int8"]
    assert list(open_folders([(both, "int8"), (both, "fp32")], threads=1)) == ["int8", "fp32"]
    assert list(open_folders([dense, dense], threads=1)) == ["dense (1)", "dense (2)"]
    with pytest.raises(InputError, match=r"variant must be one of those the folder has \(fp32, int8\), got 'fp16'"):
        open_folders([(both, "fp16")])


def test_equal_names_of_folders_become_paths(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one, two = make_folder().path, make_folder(name="a/made").path
    assert list(open_folders([one, two], threads=1)) == [str(one), str(two)]


def test_a_benchmark_says_which_variant_it_timed(both: Path) -> None:
    models = benchmark(open_folders([both], threads=1), [(1, 4)], **QUICK).models
    assert [(name, model["variant"]) for name, model in models.items()] == [("fp32", "fp32"), ("int8", "int8")]


def test_times_are_written_beside_what_is_there(both: Path) -> None:
    file = both / "losparse.json"
    data = json.loads(file.read_text())
    data["variants"]["int8"]["times"] = {"cpu-avx2 1x4 1t": 9.0, "arm 1x4 1t": 8.0}
    data["of a later version"] = [1]
    file.write_text(json.dumps(data))
    results = [timing("fp32", 2.0), timing("int8", 1.5), timing("fp32", 3.0, (8, 2)), timing("int8", 4.0, (8, 2))]
    recorded = record_times(found(both, *results), "cpu-avx2")
    assert (recorded.calls, recorded.noisy) == (("cpu-avx2 1x4 1t", "cpu-avx2 8x2 1t"), ())
    after = read_folder(both).variants
    assert after["fp32"].times == {"cpu-avx2 1x4 1t": 2.0, "cpu-avx2 8x2 1t": 3.0}
    assert after["int8"].times == {"cpu-avx2 1x4 1t": 1.5, "arm 1x4 1t": 8.0, "cpu-avx2 8x2 1t": 4.0}
    assert json.loads(file.read_text())["of a later version"] == [1], "what is not known here stays"
    assert changed_files(both) == [] and sorted(each.name for each in both.glob(".*")) == []


def test_a_session_chooses_by_the_times_that_were_recorded(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSPARSE_CPU", "cpu-amx")
    assert Session(both, threads=1).variant == "int8"
    record_times(found(both, timing("fp32", 1.0), timing("int8", 2.0)), "cpu-amx")
    session = Session(both, threads=1)
    assert session.choice == (
        "variant fp32 on cpu-amx, the fastest as timed on this class of CPU; not int8 (2.00 times as long)"
    )
    monkeypatch.setenv("LOSPARSE_CPU", "cpu-avx2")
    assert Session(both, threads=1).variant == "int8"


def test_times_of_a_disturbed_machine_are_not_written(both: Path) -> None:
    results = [timing("fp32", 2.0), timing("int8", 1.5, noisy=True), timing("fp32", 3.0, (8, 2))]
    recorded = record_times(found(both, *results), "arm")
    assert (recorded.calls, recorded.noisy) == (("arm 8x2 1t",), ("arm 1x4 1t",))
    assert read_folder(both).variants["fp32"].times == {"arm 8x2 1t": 3.0}
    assert read_folder(both).variants["int8"].times is None


def test_a_folder_of_one_variant_keeps_times_too(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    record_times(found(folder, timing("fp32", 2.0), threads=2), "arm")
    assert read_folder(folder).variants["fp32"].times == {"arm 1x4 2t": 2.0}
    assert json.loads((folder / "losparse.json").read_text())["format"] == 1


def test_what_cannot_be_recorded(both: Path) -> None:
    before = (both / "losparse.json").read_bytes()
    times = found(both, timing("fp32", 2.0))
    with pytest.raises(InputError, match=r"times are recorded by class of CPU, so of CPU.* alone, got CUDA"):
        record_times(replace(times, providers=("CUDAExecutionProvider",)))
    other = {"fp32": {**times.models["fp32"], "fingerprint": "0" * 64}}
    with pytest.raises(FolderError, match="was exported again while it was timed"):
        record_times(replace(times, models=other))
    assert (both / "losparse.json").read_bytes() == before
