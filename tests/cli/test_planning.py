"""Plans on the command line, and estimates before any training."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from .conftest import Command, Pass, Sources


def edited_plan(whole_pass: Pass, file: Path, change) -> Path:
    plan = json.loads((whole_pass.onnx / "plan.json").read_text())
    change(plan)
    file.write_text(json.dumps(plan))
    return file


def first_layer(plan) -> tuple[str, dict]:
    return next(iter(plan["layers"].items()))


def test_a_plan_that_was_edited_is_carried_out(losparse: Command, whole_pass: Pass, tmp_path: Path) -> None:
    def change(plan):
        for layer in plan["layers"].values():
            layer["lowering"] = "selector" if layer["kept"] else layer["lowering"]

    plan = edited_plan(whole_pass, tmp_path / "plan.json", change)
    done = losparse("export", whole_pass.compressed, tmp_path / "out", "--plan", plan)
    assert done.code == 0 and "selector" in done.out
    written = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert {layer["lowering"] for layer in written["layers"].values() if layer["kept"]} == {"selector"}
    shown = losparse("inspect", tmp_path / "out", "--reasons")
    assert shown.code == 0 and "selector: " in shown.out and "not constant: the layer has weights" in shown.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: first_layer(plan)[1].update(lowering="fast"), ["lowering must be one of", "got 'fast'"]),
        (lambda plan: plan["layers"].pop(first_layer(plan)[0]), ["the plan says nothing about layer"]),
        (lambda plan: first_layer(plan)[1].update(lowering="constant"), ["'constant' cannot be used", "has weights"]),
        (lambda plan: first_layer(plan)[1].update(rank=31), ["the plan is for another", "rank 31"]),
        (
            lambda plan: plan.update(precision="int8"),
            ["the plan is for precision 'int8'"],
        ),
    ],
    ids=["unknown lowering", "missing layer", "does not apply", "another model", "another precision"],
)
def test_bad_plans(losparse: Command, whole_pass: Pass, tmp_path: Path, change, words) -> None:
    name = first_layer(json.loads((whole_pass.onnx / "plan.json").read_text()))[0]
    plan = edited_plan(whole_pass, tmp_path / "plan.json", change)
    refused = losparse("export", whole_pass.compressed, tmp_path / "out", "--plan", plan)
    refused.refused(*words, *([name] if "precision" not in words[0] else []))
    assert not (tmp_path / "out").exists()


def test_a_plan_says_what_to_do_already(losparse: Command, whole_pass: Pass, tmp_path: Path) -> None:
    plan = whole_pass.onnx / "plan.json"
    losparse("export", whole_pass.compressed, tmp_path / "out", "--plan", plan, "--tune").refused(
        "--plan says what to do"
    )
    losparse("export", whole_pass.compressed, tmp_path / "out", "--plan", tmp_path / "no.json").refused(
        "cannot be read"
    )


def test_tuning(losparse: Command, whole_pass: Pass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = losparse("export", whole_pass.compressed, tmp_path / "out", "--tune", "--batch", 1, "--length", 8)
    assert done.code == 0
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["tokens"] == 8
    # Layers of 32 features: either a form was timed to be the fastest, or the whole model is faster dense.
    assert all(("timed" in layer["reason"]) or ("faster dense" in layer["reason"]) for layer in plan["layers"].values())
    assert (tmp_path / "cache" / "losparse" / "times.json").is_file()


def test_estimate(losparse: Command, tmp_path: Path, sources: Sources) -> None:
    folder = tmp_path / "config only"
    folder.mkdir()
    (folder / "config.json").write_bytes((sources.model / "config.json").read_bytes())
    report = tmp_path / "report.json"
    done = losparse(
        "estimate", folder, "--keep", 0.4, "--length", 8, "--precision", "fp32", "--no-grid", "--json", report
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["dense", "fp32"], ["dense", "int8"], ["factored", "fp32"]]
    assert lines[-1].startswith(("Worth it", "Not worth it"))
    data = json.loads(report.read_text())
    assert data["rows"][2]["keep"] <= 0.4 and data["machine"]["cpu"] and data["call"]["length"] == 8


def test_estimate_runs_no_code_of_the_model(losparse: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "conf.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "conf.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # the consent that transformers itself would ask for
    losparse("estimate", tmp_path).refused("no configuration can be read")
    assert not (tmp_path / "ran").exists()


def test_estimate_refusals(losparse: Command, tmp_path: Path, sources: Sources) -> None:
    losparse("estimate", tmp_path).refused("has no config.json", "an estimate needs one")
    losparse("estimate", sources.model, "--keep", 1.5).refused("keep must be a number in (0, 1], got 1.5")
    losparse("estimate", sources.model, "--target", "moon").refused("target (--target) must be one of cpu, cpu-avx2, ")
    losparse("estimate", sources.model, "--precision", "fp16").refused("precision must be one of fp32, int8 for an est")
    losparse("estimate", sources.model, "--low-rank", 0.3).refused("low_rank must not exceed keep=0.2")
    losparse("estimate", sources.model, "--json", tmp_path / "no" / "file").refused("--json must be a file")
