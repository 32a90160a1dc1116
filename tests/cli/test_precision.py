"""Precisions on the command line: export, check and inspect of a folder that is not fp32."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from losparse import inspect_folder
from losparse.cli.export import add_options
from losparse.cli.parser import CommandParser
from losparse_export import PRECISION_TABLE

from .conftest import Command, Pass, Quantised, Sources, edit_json


def test_what_is_printed_is_what_the_folder_says(quantised: Quantised) -> None:
    metadata = json.loads((quantised.onnx / "losparse.json").read_text())
    parity, accuracy = metadata["parity"], metadata["accuracy"]
    beside = accuracy["differences"]["pytorch"]
    assert metadata["precision"] == "int8-static"
    assert {key: accuracy[key] for key in ("file", "texts")} == {"file": "validation.csv", "texts": 64}
    lines = quantised.out.splitlines()
    assert lines[0] == f"{quantised.onnx}: text-classification, int8-static"
    parts = inspect_folder(quantised.onnx).parts
    assert parts.line in lines and parts.total == (quantised.onnx / "model.onnx").stat().st_size
    assert lines[-10:-6] == [
        f"largest difference to PyTorch: {parity['max_abs']:.1e} (allowed {parity['tolerance']:.1e})",
        f"cosine with PyTorch: {parity['cosine']:.6f} (allowed 0.88 or more)",
        f"same largest entry as PyTorch: {parity['top1_agreement']:.2%} of rows",
        f"accuracy on 64 texts: PyTorch {accuracy['pytorch']:.4f}, ONNX {accuracy['onnx']:.4f} "
        f"({beside['delta']:+.4f} +- {beside['error']:.4f})",
    ]
    assert lines[-6].startswith("beside precision int8, whose scales are computed in every run")
    cells = {" ".join(line.split()[:-2]): line.split()[-2:] for line in lines[-5:]}
    assert cells[""] == ["int8-static", "int8"]
    assert cells["accuracy on 64 texts"][0] == f"{accuracy['onnx']:.4f}"
    # A text's numbers are those of its own tokens, up to the rounding of the attention and of the head in fp32; with
    # scales of every run they move by steps of 1/255 of a range.
    fixed, dynamic = map(float, cells["moves beside a longer text by up to"])
    assert fixed < dynamic / 10


def test_accuracy_is_counted_on_the_texts(quantised: Quantised, losparse: Command, sources: Sources) -> None:
    """The same texts by `run`: 64 labels, counted by hand."""
    rows = [line.split(",") for line in sources.validation.read_text().splitlines()[1:]]
    done = losparse("run", quantised.onnx, *(text for text, _ in rows))
    said = [line.split()[0] for line in done.out.splitlines()[1:]]
    right = sum(label == each for (_, label), each in zip(rows, said, strict=True))
    accuracy = json.loads((quantised.onnx / "losparse.json").read_text())["accuracy"]
    assert accuracy["onnx"] == right / 64
    assert 0.5 < accuracy["pytorch"] <= 1  # the texts can be learned


def test_inspect_shows_the_precision(quantised: Quantised, whole_pass: Pass, losparse: Command, tmp_path: Path) -> None:
    done = losparse("inspect", quantised.onnx, "--json", tmp_path / "inspect.json")
    assert "precision: int8-static, weights of 7 bits" in done.out.splitlines()
    said = json.loads((tmp_path / "inspect.json").read_text())
    assert (said["precision"], said["weight_bits"]) == ("int8-static", 7)
    assert "precision: fp32" in losparse("inspect", whole_pass.onnx).out
    assert "precision" not in losparse("inspect", whole_pass.compressed).out


def test_check_bears_what_the_precision_bears(
    quantised: Quantised, whole_pass: Pass, losparse: Command, sources: Sources, tmp_path: Path
) -> None:
    report = tmp_path / "check.json"
    against = ("--reference", whole_pass.compressed, "--data", sources.validation)
    done = losparse("check", quantised.onnx, *against, "--json", report)
    assert (done.code, done.err) == (0, ""), done.out
    result = json.loads(report.read_text())
    assert (result["precision"], result["cosine"]) == ("int8-static", 0.88)
    parts = result["parts"].values()
    assert max(part["max_abs"] for part in parts) > 1e-3  # as fp32 it would fail
    assert all(part["centred_cosine"] >= 0.88 for part in parts)
    # Whichever side is the quantised one.
    for a, b in ((quantised.onnx, whole_pass.onnx), (whole_pass.onnx, quantised.onnx)):
        assert losparse("check", a, "--reference", b).code == 0
    assert losparse("check", quantised.onnx, *against, "--tolerance", 1e-4).code == 1


def test_check_finds_scales_that_are_wrong(
    quantised: Quantised, whole_pass: Pass, losparse: Command, tmp_path: Path
) -> None:
    """A difference that the tolerance allows and the cosine does not: every int8 product gives nothing."""
    folder = Path(shutil.copytree(quantised.onnx, tmp_path / "copy"))
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, folder / "model.onnx")
    content = (folder / "model.onnx").read_bytes()
    record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_json(folder / "losparse.json", files={"model.onnx": record})
    done = losparse("check", folder, "--reference", whole_pass.onnx, "--tolerance", 1e6)
    assert (done.code, done.out.splitlines()[-1]) == (1, "FAILED")
    assert losparse("check", quantised.onnx, "--reference", whole_pass.onnx, "--tolerance", 1e6).code == 0


def test_refusals(losparse: Command, whole_pass: Pass, sources: Sources, tmp_path: Path) -> None:
    export = ("export", whole_pass.compressed, tmp_path / "out")
    losparse(*export, "--precision", "int4").refused("precision must be one of fp32, int8,", "got 'int4'")
    losparse(*export, "--precision", "int8-static").refused("--calibration FILE")
    given = losparse(*export, "--precision", "int8", "--calibration", sources.train)
    given.refused("calibration is for precision 'int8-static', got it with 'int8'")
    losparse(*export, "--precision", "int8", "--weight-bits", 4).refused(
        "argument --weight-bits: invalid choice: 4 (choose from 7, 8)"
    )
    half = losparse(*export, "--precision", "fp16", "--embeddings", "int8")
    half.refused("--embeddings 'int8' is not for fp16, whose tables are in half precision; leave one out")
    losparse(*export, "--weight-bits", 8).refused(
        "--weight-bits 8 is for int8-rows, int8-static, and int8 where", "got it with fp32;"
    )
    losparse(*export, "--precision", "int8", "int8").refused("--precision must name every form once, got 'int8' twice")
    losparse(*export, "--precision", "fp32", "fp15").refused(
        "--precision must be one of fp32, ", "did you mean 'fp16'?"
    )
    static = (*export, "--precision", "int8-static")
    losparse(*static, "--calibration", tmp_path / "none.csv").refused("no data file")
    labelled = losparse(*static, "--data", sources.train, "--label-column", "grade")
    labelled.refused("no column 'grade'")  # labelled texts do for the calibration: what is wrong is a column
    losparse(*static, "--calibration", sources.train, "--text-column", "body").refused("no column 'body'")
    losparse(*export, "--data", sources.train, "--label-column", "grade").refused("no column 'grade'")
    losparse("export", sources.model, tmp_path / "out", "--data", sources.train).refused("LABEL_0, LABEL_1")
    assert list(tmp_path.iterdir()) == []


def test_the_help_says_what_each_precision_is_for() -> None:
    parser = CommandParser(prog="export")
    add_options(parser)
    text = " ".join(parser.format_help().split())
    for name, precision in PRECISION_TABLE.items():
        assert f"{name}: {precision.purpose}" in text
    assert "int8-vnni: as int8 with weights of 8 bits, which is more exact, for CPUs with VNNI" in text


def test_fp16_says_on_stderr_that_it_is_not_for_cpus(whole_pass: Pass, tmp_path: Path) -> None:
    """In a process of its own: under pytest the messages of loggers do not go to stderr."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / part) for part in (".", "export", "runtime"))
    command = ["export", str(whole_pass.compressed), str(tmp_path / "out"), "--precision", "fp16"]
    done = subprocess.run(
        [sys.executable, "-m", "losparse.cli", *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("losparse: fp16 is for GPU providers: onnxruntime's CPU provider widens its weights")
    weights = ((folder / "model.onnx").stat().st_size for folder in (tmp_path / "out", whole_pass.onnx))
    assert next(weights) < next(weights)
    assert json.loads((tmp_path / "out" / "losparse.json").read_text())["parity"]["max_abs"] < 0.02


def test_several_forms_in_one_folder(losparse: Command, whole_pass: Pass, sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = losparse("export", whole_pass.compressed, out, "--precision", "fp32", "int8", "--data", sources.validation)
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err
    lines = [line.split() for line in done.out.splitlines()]
    said = json.loads((out / "losparse.json").read_text())
    assert list(said["variants"]) == ["fp32", "int8"]
    for name, file in (("fp32", "model.onnx"), ("int8", "model_quantized.onnx")):
        row = next(line for line in lines if line[:2] == [name, file])
        accuracy = said["variants"][name]["accuracy"]
        beside = accuracy["differences"]["pytorch"]
        shown = [f"{accuracy['onnx']:.4f}", f"{beside['delta']:+.4f}", "+-", f"{beside['error']:.4f}"]
        assert row[-4:] == shown
        assert f"{said['variants'][name]['parity']['max_abs']:.1e}" in row
    assert lines[[line[:1] for line in lines].index(["PyTorch"])][-2] == row_accuracy(said)
    inspected = losparse("inspect", out)
    assert "precision: fp32, int8, weights of 7 bits" in inspected.out.splitlines()
    assert (
        f"files: {sum(each['bytes'] for name, each in said['files'].items() if '.onnx' in name):,} bytes"
        in inspected.out
    )


def row_accuracy(said: dict[str, Any]) -> str:
    return f"{said['variants']['fp32']['accuracy']['pytorch']:.4f}"


def test_a_form_that_is_left_out_is_said_and_the_command_fails(
    losparse: Command, whole_pass: Pass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRECISION_TABLE, "fp16", replace(PRECISION_TABLE["fp16"], difference=1e-9))
    done = losparse("export", whole_pass.compressed, tmp_path / "out", "--precision", "fp32", "fp16")
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("left out: ")]
    assert line.startswith("left out: fp16: the exported model differs from PyTorch: ")
    assert losparse("check", tmp_path / "out").code == 0 and not (tmp_path / "out" / "model_fp16.onnx").exists()
