"""run, bench, check and inspect on folders of several forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from losparse.cli.bench import named_places
from losparse.errors import LosparseError
from losparse_runtime import read_folder
from losparse_runtime.engine.cpus import cpu_class

from ..runtime.conftest import MakeFolder, make_folder
from ..runtime.several import put_together
from .conftest import Command

__all__ = ["make_folder"]  # a fixture of the runtime's tests

SHORT = ("--length", 4, "--threads", 1, "--no-memory")


@pytest.fixture
def both(make_folder: MakeFolder, tmp_path: Path) -> Path:
    """fp32, and an int8 that answers otherwise."""
    folders = {"fp32": make_folder().path, "int8": make_folder(name="other", seed=1).path}
    return put_together(
        tmp_path / "both",
        folders,
        fp32={"accuracy": {"metric": "accuracy", "pytorch": 0.75, "onnx": 0.75}},
        int8={"precision": "int8", "weight_bits": 7, "times": {"arm 1x128 1t": 2.0}},
    )


def test_run_opens_the_form_that_is_named(losparse: Command, both: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = {name: losparse("run", both, "--variant", name, "a b c").out for name in ("fp32", "int8")}
    assert said["fp32"] != said["int8"]
    chosen = losparse("run", both, "--verbose", "a b c")
    assert chosen.out == said["int8"] and "variant int8 on cpu-avx2, the first in the order for it" in caplog.text
    losparse("run", both, "--variant", "fp16", "a").refused("variant must be one of", "fp32, int8", "'fp16'")


def test_bench_times_all_forms_of_a_folder(losparse: Command, both: Path, make_folder: MakeFolder) -> None:
    dense = make_folder(name="dense").path
    file = both.parent / "bench.json"

    def models(*arguments: object) -> list[str]:
        done = losparse("bench", *arguments, *SHORT, "--runs", 1, "--json", file)
        assert done.code == 0, done.err
        assert ("a speedup is measured in runs side by side" in done.out) == (
            len(json.loads(file.read_text())["models"]) > 1
        )
        return list(json.loads(file.read_text())["models"])

    assert models(both) == ["fp32", "int8"]
    assert models(f"{both}:int8") == models(both, "--variant", "int8") == ["int8"]
    assert models(both, "--against", dense) == ["dense", "both:fp32", "both:int8"]
    assert models(f"{both}:int8", "--against", f"{both}:fp32") == ["fp32", "int8"]
    losparse("bench", f"{both}:int8", "--variant", "int8").refused("names a form already", "--variant int8")
    losparse("bench", f"{both}:fp16").refused("variant must be one of", "'fp16'")


def test_a_folder_whose_own_name_has_a_colon(tmp_path: Path) -> None:
    (tmp_path / "a:int8").mkdir()
    assert named_places(f"{tmp_path}/a:int8") == [(tmp_path / "a:int8", None)]
    assert named_places(f"{tmp_path}/a:int8:fp32") == [(tmp_path / "a:int8", "fp32")]
    assert named_places("no such:folder") == [(Path("no such:folder"), None)]
    with pytest.raises(LosparseError, match="names a form already"):
        named_places(f"{tmp_path}/a:int8:fp32", variant="fp32")


def test_bench_records_times_of_this_class_of_cpu(losparse: Command, both: Path) -> None:
    done = losparse("bench", both, *SHORT, "--runs", 30, "--record")
    assert done.code == 0
    call = f"{cpu_class(environ={})} 1x4 1t"  # not of the class that the tests are run as
    times = {name: dict(each.times or {}) for name, each in read_folder(both).variants.items()}
    assert times["int8"].pop("arm 1x128 1t") == 2.0, "times of other machines stay"
    if f"recorded: {call}\n" in done.out:
        assert list(times["fp32"]) == list(times["int8"]) == [call] and min(times["fp32"].values()) > 0
    else:
        assert f"not recorded, since the machine was disturbed: {call}; time again when it is idle\n" in done.out
        assert times == {"fp32": {}, "int8": {}}
    losparse("bench", both, "--record", "--provider", "CUDAExecutionProvider").refused(
        "--record", "leave --provider out"
    )


def test_check_looks_at_one_form_where_it_is_named(losparse: Command, both: Path, make_folder: MakeFolder) -> None:
    dense = make_folder(name="dense").path
    assert losparse("check", both).code == 0
    assert losparse("check", both, "--reference", dense, "--variant", "fp32").code == 0
    whole = losparse("check", both, "--reference", dense)
    assert whole.code == 1 and "variant int8 against ONNX" in whole.out
    losparse("check", both, "--variant", "fp16").refused("variant must be one of", "'fp16'")


def test_inspect_prints_a_table_of_the_forms(losparse: Command, both: Path, tmp_path: Path) -> None:
    done = losparse("inspect", both, "--json", tmp_path / "inspect.json")
    assert done.code == 0
    lines = done.out.splitlines()
    title = lines.index("variants; a file that several share counts in each")
    assert [line.split("  ")[0] for line in lines[title + 1 : title + 4]] == ["variant", "fp32", "int8"]
    assert lines[title + 1].endswith("ms, arm 1x128 1t") and lines[title + 3].endswith("2.00")
    assert "accuracy 0.7500" in lines[title + 2] and "model_int8.onnx" in lines[title + 3]
    stored = json.loads((tmp_path / "inspect.json").read_text())["variants"]
    assert [each["name"] for each in stored] == ["fp32", "int8"]
    assert stored[1]["bytes"] == (both / "model_int8.onnx").stat().st_size and stored[1]["times"] == {
        "arm 1x128 1t": 2.0
    }


def test_inspect_of_one_form_prints_no_table_of_them(losparse: Command, make_folder: MakeFolder) -> None:
    assert "variants; a file" not in losparse("inspect", make_folder().path).out
