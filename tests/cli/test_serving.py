"""The commands on folders: export, check, bench, run and inspect, over one compress and two exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from losparse.cli.checkpoint import read_header
from losparse.cli.export import following

from ..runtime.conftest import MakeFolder, make_folder
from .conftest import Command, Pass, Sources, edit_json
from .test_main import loaded_by

__all__ = ["make_folder"]  # a fixture of the runtime's tests


@pytest.fixture
def onnx_copy(whole_pass: Pass, tmp_path: Path) -> Path:
    """A copy of the compressed ONNX folder to damage."""
    return Path(shutil.copytree(whole_pass.onnx, tmp_path / "copy"))


# export


def test_the_exported_folder_says_where_it_came_from(whole_pass: Pass) -> None:
    metadata = json.loads((whole_pass.onnx / "losparse.json").read_text())
    assert (metadata["source"]["model"], metadata["source"]["compressed"]) == ("small", True)
    assert metadata["labels"] == ["bad", "good"]


def test_export_refusals(losparse: Command, whole_pass: Pass, sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    losparse("export", tmp_path / "none", out).refused("none", "no such folder")
    losparse("export", whole_pass.compressed, out, "--opset", 3).refused("opset", "3")
    losparse("export", whole_pass.compressed, whole_pass.compressed).refused("another folder")
    losparse("export", whole_pass.compressed, whole_pass.onnx).refused("exists", "--overwrite")
    losparse("export", whole_pass.compressed, sources.train.parent, "--overwrite").refused("not written by losparse")
    losparse("export", whole_pass.compressed, out, "--task", "question-answering").refused("qa_outputs")
    assert list(tmp_path.iterdir()) == []
    assert sources.train.is_file()


def test_progress_of_an_export_follows_its_phases() -> None:
    seen: list[tuple[int, int, str]] = []

    def advance(done: int, total: int, title: str) -> None:
        seen.append((done, total, title))

    tell = following(advance)
    for text, done, steps in (("a", 0, 4), ("a", 3, 4), ("b", 0, 9), ("b", 9, 9)):
        tell(text, done, steps)
    assert [done for done, _, _ in seen] == [0, 3, -3, 9]
    assert seen[-1] == (9, 9, "exporting: b")


# check


def test_check_passes_against_the_checkpoint(
    losparse: Command, whole_pass: Pass, sources: Sources, tmp_path: Path
) -> None:
    arguments = ("--reference", whole_pass.compressed, "--data", sources.validation, "--json", tmp_path / "check.json")
    done = losparse("check", whole_pass.onnx, *arguments)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "passed"
    result = json.loads((tmp_path / "check.json").read_text())
    assert result["passed"] and result["against"] == "PyTorch"
    assert result["parts"]["texts"]["rows"] == 64
    assert result["parts"]["texts"]["top1_agreement"] == 1.0
    assert all(0 < part["max_abs"] <= 1e-4 for part in result["parts"].values())


def test_check_against_an_onnx_folder_loads_no_torch(whole_pass: Pass) -> None:
    folder = str(whole_pass.onnx)
    program = f"from losparse.cli.main import main; main(['check', {folder!r}, '--reference', {folder!r}])"
    assert loaded_by(program) == {"onnxruntime"}


def test_check_refuses_a_reference_with_other_labels(losparse: Command, whole_pass: Pass, sources: Sources) -> None:
    # The dense original was never fine-tuned: its labels have no names.
    reference = ("--reference", sources.model)
    losparse("check", whole_pass.onnx, *reference).refused("labels bad, good", "LABEL_0, LABEL_1", "another model")


def other_weights(folder: Path, change: Any) -> Path:
    """Change the largest weight inside model.onnx, and make the metadata fit the file again."""
    import hashlib

    file = folder / "model.onnx"
    model = onnx.load(file)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, file)
    content = file.read_bytes()
    record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_json(folder / "losparse.json", files={"model.onnx": record})
    return folder


def scale(values: np.ndarray[Any, Any]) -> None:
    values *= 1.01


def poison(values: np.ndarray[Any, Any]) -> None:
    values[:] = np.nan


@pytest.mark.parametrize(("change", "shown"), [(scale, "e-0"), (poison, "not finite")])
def test_check_fails_on_changed_weights_and_names_the_layer(
    losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path, change: Any, shown: str
) -> None:
    other_weights(onnx_copy, change)
    before = sorted(path.name for path in onnx_copy.iterdir())
    done = losparse("check", onnx_copy, "--reference", whole_pass.compressed, "--json", tmp_path / "check.json")
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines()[-1] == "FAILED" and shown in done.out
    result = json.loads((tmp_path / "check.json").read_text())
    assert not result["passed"]
    assert result["parts"]["random tokens"]["first_layer"].startswith("bert.")
    assert f"first layer that differs: {result['parts']['random tokens']['first_layer']}" in done.out
    assert sorted(path.name for path in onnx_copy.iterdir()) == before


def test_check_against_onnx_fails_on_changed_weights_unless_the_tolerance_allows_it(
    losparse: Command, whole_pass: Pass, onnx_copy: Path
) -> None:
    other_weights(onnx_copy, scale)
    reference = ("--reference", whole_pass.onnx)
    assert losparse("check", onnx_copy, *reference).code == 1
    assert losparse("check", onnx_copy, *reference, "--tolerance", 10).code == 0


def test_check_refusals(losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path) -> None:
    reference = ("--reference", whole_pass.compressed)
    folder = whole_pass.onnx
    losparse("check", folder).refused("--reference")
    losparse("check", folder, "--reference", tmp_path / "none").refused("none", "no such folder")
    losparse("check", whole_pass.compressed, *reference).refused("is a model checkpoint", "losparse export")
    losparse("check", folder, *reference, "--tolerance", "nan").refused("--tolerance")
    losparse("check", folder, *reference, "--data", tmp_path / "none.csv").refused("no data file")
    losparse("check", folder, *reference, "--json", tmp_path / "no" / "x.json").refused("--json")
    model = onnx_copy / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    losparse("check", onnx_copy, *reference).refused("SHA-256", "changed after the export")
    model.write_bytes(model.read_bytes()[:-1])
    losparse("check", onnx_copy, *reference).refused("must have", "bytes")


# bench


def test_bench_writes_what_it_prints(losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path) -> None:
    shapes = ("--batch", 1, 2, "--length", 4, 8, "--threads", 1, "--runs", 3, "--no-memory")
    arguments = ("--against", onnx_copy, *shapes, "--json", tmp_path / "bench.json")
    done = losparse("bench", whole_pass.onnx, *arguments)
    assert (done.code, done.err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["batch"], row["length"], row["model"]) for row in report["results"]] == [
        (batch, length, model) for batch in (1, 2) for length in (4, 8) for model in ("copy", "small-onnx")
    ]
    assert all(row["runs"] == 3 and row["median_ms"] > 0 for row in report["results"])
    assert report["threads"] == 1 and report["machine"]["cpu"] and report["versions"]["onnxruntime"]
    assert len(done.out.splitlines()) == 2 + 8


def test_bench_measures_memory_unless_told_not_to(losparse: Command, whole_pass: Pass, tmp_path: Path) -> None:
    arguments = ("--length", 4, "--runs", 1, "--json", tmp_path / "bench.json")
    assert losparse("bench", whole_pass.onnx, *arguments).code == 0
    (row,) = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert row["peak_memory_bytes"] > 10e6


def test_bench_refusals(losparse: Command, whole_pass: Pass, onnx_copy: Path) -> None:
    folder = whole_pass.onnx
    losparse("bench", folder, "--length", 64).refused("length must be in 1..32", "got 64")
    losparse("bench", folder, "--provider", "CUDAExecutionProvider").refused("CUDAExecutionProvider", "installed")
    edit_json(onnx_copy / "losparse.json", labels=["good", "bad"])
    losparse("bench", folder, "--against", onnx_copy).refused("only folders of the same model", "labels")


def test_bench_loads_no_torch(whole_pass: Pass) -> None:
    arguments = ["bench", str(whole_pass.onnx), "--length", "4", "--runs", "1", "--no-memory"]
    assert loaded_by(f"from losparse.cli.main import main; main({arguments!r})") == {"onnxruntime"}


# run


def test_run_classifies(losparse: Command, whole_pass: Pass) -> None:
    done = losparse("run", whole_pass.onnx, "the film was great", "a dull plot")
    assert (done.code, done.err) == (0, "")
    rows = [line.split(None, 2) for line in done.out.splitlines()]
    assert rows[0] == ["label", "score", "text"]
    assert [(row[0], row[2]) for row in rows[1:]] == [("good", "the film was great"), ("bad", "a dull plot")]


def test_run_reads_lines_of_stdin(losparse: Command, whole_pass: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("a dull plot\n\nthe film was great\n"))
    assert [line.split()[0] for line in losparse("run", whole_pass.onnx).out.splitlines()[1:]] == [
        "bad",
        "good",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    losparse("run", whole_pass.onnx).refused("no text to run")


def test_run_keeps_the_order_of_many_texts(losparse: Command, whole_pass: Pass) -> None:
    texts = [f"{'a ' * (number % 5)}{word}" for number, word in enumerate(["great", "dull"] * 20)]
    done = losparse("run", whole_pass.onnx, *texts, "--batch-size", 1, "--verbose")
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["good", "bad"] * 20
    assert done.err.startswith("losparse: running: ")


def test_run_refusals(losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path) -> None:
    folder = whole_pass.onnx
    losparse("run", tmp_path / "none", "text").refused("no such folder")
    losparse("run", folder, "text", "--provider", "CUDAExecutionProvider").refused("is not installed")
    losparse("run", folder, "text", "--provider", "NoProvider").refused("'NoProvider'")
    losparse("run", folder, "text", "--question", "who").refused("--question", "text-classification")
    losparse("run", folder, "one", "two", "--pair", "three").refused("--pair", "2 texts", "got 1")
    edit_json(onnx_copy / "losparse.json", fingerprint="0" * 64)
    losparse("run", onnx_copy, "text").refused("fingerprint", "different exports")


def test_run_loads_no_torch(whole_pass: Pass) -> None:
    program = f"from losparse.cli.main import main; main(['run', {str(whole_pass.onnx)!r}, 'text'])"
    assert loaded_by(program) == {"onnxruntime"}


def test_run_tags_tokens(losparse: Command, make_folder: MakeFolder) -> None:
    done = losparse("run", make_folder("token-classification").path, "a b", "c")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["label", "score", "token", "text"]
    assert [(row[2], row[3]) for row in rows[1:]] == [("a", "1"), ("b", "1"), ("c", "2")]
    assert {row[0] for row in rows[1:]} <= {"red", "green", "blue"}


def test_run_answers(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder("question-answering").path
    losparse("run", folder, "a b c").refused("--question")
    done = losparse("run", folder, "a b c", "--question", "d")
    assert done.code == 0 and done.out.splitlines()[0].split() == ["answer", "score", "start"]
    assert done.out.splitlines()[1][0] in "abc"


def test_run_embeds_as_json(losparse: Command, make_folder: MakeFolder) -> None:
    done = losparse("run", make_folder("feature-extraction").path, "a b", "c")
    vectors = [json.loads(line) for line in done.out.splitlines()]
    assert [len(vector) for vector in vectors] == [4, 4]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0, 1.0], abs=1e-6)


def test_run_classifies_pairs(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder().path
    alone, paired = losparse("run", folder, "a"), losparse("run", folder, "a", "--pair", "d e f")
    assert (alone.code, paired.code) == (0, 0)
    assert alone.out.split()[4] != paired.out.split()[4]


# inspect


def test_inspect_agrees_with_the_report(losparse: Command, whole_pass: Pass, tmp_path: Path) -> None:
    done = losparse("inspect", whole_pass.compressed, "--json", tmp_path / "inspect.json")
    assert (done.code, done.err) == (0, "")
    contents = json.loads((tmp_path / "inspect.json").read_text())
    report = json.loads((whole_pass.compressed / "losparse_report.json").read_text())
    counts = report["compression"]
    assert contents["kind"] == "compressed checkpoint"
    assert contents["layer_share"] == counts["share"]
    assert contents["model_parameters"] == counts["model_parameters"]
    assert contents["file_bytes"] == (whole_pass.compressed / "model.safetensors").stat().st_size
    expected = {layer["name"]: layer["parameters"] for layer in counts["layers"]}
    assert {layer["name"]: layer["parameters"] for layer in contents["layers"]} == expected
    assert f"{counts['parameters']:,} of {counts['dense_parameters']:,} parameters" in done.out


def test_inspect_counts_what_the_model_has(losparse: Command, sources: Sources, tmp_path: Path) -> None:
    assert losparse("inspect", sources.model, "--json", tmp_path / "inspect.json").code == 0
    contents = json.loads((tmp_path / "inspect.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(sources.model)
    assert contents["kind"] == "dense checkpoint"
    assert contents["model_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert len(contents["layers"]) == 12 and contents["layer_share"] == 1.0


def test_inspect_shows_the_plan_of_an_onnx_folder(losparse: Command, whole_pass: Pass, tmp_path: Path) -> None:
    done = losparse("inspect", whole_pass.onnx, "--json", tmp_path / "inspect.json")
    assert "lowering" in done.out.splitlines()[1]
    contents = json.loads((tmp_path / "inspect.json").read_text())
    metadata = json.loads((whole_pass.onnx / "losparse.json").read_text())
    assert contents["layer_parameters"] == metadata["parameters"]["layers"]
    assert contents["layer_dense_parameters"] == metadata["parameters"]["layers_dense"]
    assert all(layer["lowering"] for layer in contents["layers"])


def test_inspect_loads_nothing_heavy(whole_pass: Pass) -> None:
    program = f"from losparse.cli.main import main; main(['inspect', {str(whole_pass.compressed)!r}])"
    assert loaded_by(program) == set()


def test_inspect_finds_a_configuration_that_does_not_fit(
    losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole_pass.compressed, tmp_path / "small"))
    config = json.loads((folder / "config.json").read_text())
    layers = config["quantization_config"]["layers"]
    name = next(iter(layers))
    layers[name]["rank"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    losparse("inspect", folder).refused(f"'{name}.u' is", "different models")
    del layers[name]["rank"]
    (folder / "config.json").write_text(json.dumps(config))
    losparse("inspect", folder).refused(name, "malformed")
    edit_json(onnx_copy / "plan.json", layers={"a": {"shape": [0, 1]}})
    losparse("inspect", onnx_copy).refused("plan.json", "malformed")
    losparse("inspect", tmp_path).refused("has no config.json")


def test_headers_are_read_as_safetensors_reads_them(sources: Sources) -> None:
    file = sources.model / "model.safetensors"
    with safe_open(file, framework="numpy") as opened:
        expected = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    assert read_header(file) == expected


def test_sharded_checkpoints(losparse: Command, model_copy: Path) -> None:
    tensors = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    index = {}
    for number, names in enumerate(halves):
        save_file({name: tensors[name] for name in names}, model_copy / f"part{number}.safetensors")
        index |= {name: f"part{number}.safetensors" for name in names}
    file = model_copy / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": index}))
    assert "20,130 parameters" in losparse("inspect", model_copy).out
    (model_copy / "part1.safetensors").unlink()
    losparse("inspect", model_copy).refused("lacks part1.safetensors")
    file.write_text("{}")
    losparse("inspect", model_copy).refused("weight_map")
