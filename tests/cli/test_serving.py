"""The commands on folders: export, check, bench, run and inspect, over one compress and two exports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from losparse.cli.bench import notes, shown_speedup
from losparse.cli.check import print_parts
from losparse.errors import LosparseError
from losparse_export.accuracy.texts import encode_calibration
from losparse_export.check import check_folder, check_session, open_reference
from losparse_export.precision.table import PRECISION_TABLE
from losparse_runtime import Parity, Session
from losparse_runtime.checking.report import CheckedPart, Judgement

from .conftest import Command, Pass, Sources, edit_json, loaded_by

# export


def test_the_exported_folder_says_where_it_came_from(whole_pass: Pass) -> None:
    metadata = json.loads((whole_pass.onnx / "losparse.json").read_text())
    assert (metadata["source"]["model"], metadata["source"]["compressed"]) == ("small", True)
    assert metadata["labels"] == ["bad", "good"]


def test_export_refusals(losparse: Command, whole_pass: Pass, sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    losparse("export", tmp_path / "none", out).refused("none", "does not exist")
    losparse("export", whole_pass.compressed, out, "--opset", 3).refused("opset", "3")
    losparse("export", whole_pass.compressed, out, "--target", "moon").refused("--target", "one of cpu, cpu-avx2, ")
    losparse("export", whole_pass.compressed, whole_pass.compressed).refused("another folder")
    losparse("export", whole_pass.compressed, whole_pass.onnx).refused("exists", "--overwrite")
    losparse("export", whole_pass.compressed, sources.train.parent, "--overwrite").refused("not written by losparse")
    losparse("export", whole_pass.compressed, out, "--task", "question-answering").refused("qa_outputs")
    assert list(tmp_path.iterdir()) == []
    assert sources.train.is_file()


@pytest.mark.parametrize(
    ("command", "flags", "needed"),
    [
        ("export", ["--threads", 2], "--tune"),
        ("export", ["--text-column", "body"], "--calibration or --data"),
        ("export", ["--label-column", "body"], "--data"),
        ("check", ["--pair-column", "body"], "--data"),
        ("check", ["--tolerance", 1], "--reference"),
    ],
)
def test_options_that_would_change_nothing(
    losparse: Command, whole_pass: Pass, tmp_path: Path, command: str, flags: list[Any], needed: str
) -> None:
    source = whole_pass.compressed
    own = [source, tmp_path / "out"] if command == "export" else [whole_pass.onnx]
    losparse(command, *own, *flags).refused(f"{flags[0]} does nothing without {needed}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("idle", "message"),
    [
        ({"data": "texts.txt"}, r"^data= does nothing without reference=; add that, or leave it out$"),
        ({"tolerance": 0.1}, r"^tolerance= does nothing without reference=; add that, or leave it out$"),
        ({"reference": "m", "pair_column": "b"}, r"^pair_column= does nothing without data=; add that, or leave it"),
    ],
)
def test_a_check_from_python_takes_nothing_that_does_nothing_either(
    tmp_path: Path, idle: dict[str, Any], message: str
) -> None:
    with pytest.raises(LosparseError, match=message):
        check_folder(tmp_path, **idle)


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
    assert (result["parts"]["texts"]["texts"], result["parts"]["texts"]["rows"]) == (64, 64)
    assert next(line.split()[:2] for line in done.out.splitlines() if line.startswith("texts")) == ["texts", "64"]
    assert result["parts"]["texts"]["top1_agreement"] == 1.0
    assert all(0 < part["max_abs"] <= 1e-4 for part in result["parts"].values())


def test_texts_that_were_cut_are_counted_in_one_line(
    losparse: Command, whole_pass: Pass, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    texts = ["film " * (40 if number % 16 == 0 else 3) for number in range(96)]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts))
    done = losparse("check", whole_pass.onnx, "--reference", whole_pass.onnx, "--data", file)
    assert done.code == 0, done.err
    said = ["6 of 96 texts are longer than 32 tokens and were cut"]
    assert caplog.messages == said
    caplog.clear()
    assert losparse("run", whole_pass.onnx, *texts, "--batch-size", 1).code == 0
    assert caplog.messages == said
    caplog.clear()
    encode_calibration(texts, whole_pass.onnx)
    assert caplog.messages == said


def test_check_against_an_onnx_folder_loads_no_torch(whole_pass: Pass) -> None:
    folder = str(whole_pass.onnx)
    program = f"from losparse.cli.main import main; main(['check', {folder!r}, '--reference', {folder!r}])"
    assert loaded_by(program) == {"onnxruntime"}


def test_check_fails_on_a_reference_with_other_labels(losparse: Command, whole_pass: Pass, sources: Sources) -> None:
    # The dense original was never fine-tuned: its labels have no names.
    done = losparse("check", whole_pass.onnx, "--reference", sources.model)
    assert done.code == 1
    assert 'differs: labels[0] is "bad", the reference has "LABEL_0"' in done.out.splitlines()


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


@pytest.mark.parametrize("largest", [1e-3, 1.0, 1e4])
def test_layers_are_compared_by_a_tolerance_for_outputs_of_magnitude_one(whole_pass: Pass, largest: float) -> None:
    """It is scaled with what each layer returns; scaled with the outputs before, it found another layer, or none."""
    session = Session(whole_pass.onnx, threads=1)
    reference = open_reference(session, whole_pass.onnx, threads=1)
    asked: list[float] = []

    def outputs(batch: Any) -> Any:
        return {name: np.full_like(values, largest) for name, values in reference.run(batch).items()}

    def explain(batch: Any, tolerance: float) -> str:
        asked.append(tolerance)
        return "a layer"

    wrong = replace(reference, run=outputs, explain=explain)
    for tolerance in (None, 1e-6):
        found = check_session(session, wrong, tolerance=tolerance)
        assert found.parts["random tokens"].first_layer == "a layer"
    # Outputs below 0.1 are compared as if they were that large.
    assert asked == [PRECISION_TABLE["fp32"].difference, pytest.approx(1e-6 / max(0.1, largest))]


@pytest.mark.parametrize(
    ("task", "column", "cell"),
    [("feature-extraction", "worst cosine", "0.912300"), ("text-classification", "same largest entry", "50.00%")],
)
def test_vectors_are_not_compared_by_their_largest_entry(capsys, task: str, column: str, cell: str) -> None:
    parity = Parity(0.1, 0.1, 0.9123, 0.99, 0.5, 0.0, True, 4, "logits", (0, 0), 0)
    print_parts({"texts": CheckedPart(True, 1, 3, parity, None)}, Judgement("PyTorch", task, "int8", 1.0, 0.92))
    out = capsys.readouterr().out
    assert column in out and cell in out and "3 (4 rows)" in out


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
    losparse("check", folder, "--reference", tmp_path / "none").refused("none", "does not exist")
    losparse("check", folder, "--reference", "owner/none").refused("no model folder 'owner/none'", "hub")
    losparse("check", whole_pass.compressed, *reference).refused("is a model checkpoint", "losparse export")
    losparse("check", folder, *reference, "--tolerance", "nan").refused("--tolerance")
    losparse("check", folder, *reference, "--data", tmp_path / "none.csv").refused("no data file")
    losparse("check", folder, *reference, "--json", tmp_path / "no" / "x.json").refused("--json")
    (onnx_copy / "losparse.json").write_text("{}")
    losparse("check", onnx_copy, *reference).refused("losparse.json", "'format' is missing")


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
    lines = done.out.splitlines()
    assert sum("x (" in line or line.split()[-2:-1] == ["1.00x"] for line in lines) == 8
    assert lines[10].startswith(
        "a speedup is measured in runs side by side: the median over the rounds, with its 95 % interval. It is not"
    )
    assert (len(lines) > 11) == any(row["noisy"] for row in report["results"])


def test_what_is_said_of_a_noisy_machine() -> None:
    quiet = {"median_ms": 2.0, "min_ms": 1.9, "noisy": False}
    assert notes([quiet], compared=False) == []
    (line,) = notes([quiet, {"median_ms": 13.8, "min_ms": 4.0, "noisy": True}], compared=False)
    assert line.startswith(
        "noisy machine: a median run took up to 3.5 times the fastest one of its model; do not quote the times. Quote "
    )
    assert shown_speedup(4.171, 3.9, 4.41) == "4.17x (3.90-4.41)" and shown_speedup(1.0, 1.0, 1.0) == "1.00x"


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
