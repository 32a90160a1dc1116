"""`losparse demo` on a tiny model: the same way as on the real one, with the exporter's part shared."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from losparse.cli import demo
from losparse.cli.main import Load
from losparse.data.examples import Examples
from losparse.demo import DocstringData
from losparse.demo.measure import FREE, accuracy, best_free
from losparse.demo.run import DENSE_STEPS, DemoSetup, make_recipes
from losparse.errors import LosparseError
from tests.openvino import use_stand_in

from .conftest import Command, Sources, make_texts

MODELS = ["dense", "dense-int8", "compressed", "compressed-int8"]


def tiny_data() -> DocstringData:
    def part(count: int, seed: int) -> Examples:
        rows = make_texts(count, seed)
        return Examples([text for text, _ in rows], None, [int(label == "good") for _, label in rows], ("bad", "good"))

    return DocstringData(part(64, 0), part(16, 1), part(32, 2))


def demo_of(setup: DemoSetup) -> Load:
    """A loader of commands whose demo is made of something else."""

    def load(name: str) -> Any:
        return SimpleNamespace(add_options=partial(demo.add_options, setup=setup)) if name == "demo" else None

    return load


@pytest.fixture
def tiny(sources: Sources) -> DemoSetup:
    return DemoSetup(lambda: sources.model, tiny_data, max_length=32, shapes=[(1, 4)])


def test_the_whole_demo(
    losparse: Command,
    tiny: DemoSetup,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages = tmp_path_factory.mktemp("openvino")
    use_stand_in(packages, monkeypatch)
    out = tmp_path / "out"
    done = losparse("demo", out, "--steps", 4, "--json", tmp_path / "report.json", load=demo_of(tiny))
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in out.iterdir()} == {
        "dense", "compressed", "dense-onnx", "dense-int8-onnx", "compressed-onnx", "compressed-int8-onnx", "report.json"
    }  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert report == json.loads((tmp_path / "report.json").read_text())
    dense, compressed = report["models"]["dense"], report["models"]["compressed"]
    assert compressed["layer_parameters"] <= 0.2 * dense["layer_parameters"]
    assert compressed["file_bytes"] < dense["file_bytes"]
    assert list(report["models"]) == MODELS
    assert report["models"]["dense-int8"]["onnx_bytes"] < dense["onnx_bytes"]
    for row in report["models"].values():
        assert 0 <= row["test_accuracy"] <= 1
        assert row["check"]["passed"] and row["check"]["parts"]["texts"]["rows"] == 32
    assert [row["model"] for row in report["bench"]["results"]] == [
        *MODELS, "openvino-int8"
    ]  # fmt: skip
    assert report["bench"]["models"]["openvino-int8"]["folder"] == "dense"
    (best,) = report["best_free"]
    assert (best["batch"], best["length"]) == (1, 4) and best["model"] in FREE
    assert report["recipes"]["compressed"]["training"]["max_steps"] == 4
    assert "test accuracy" in done.out and "1 x 4 tokens" in done.out
    assert f"as fast as {demo._shown(best['model'])}" in done.out
    assert done.out.splitlines()[-1].endswith("in OpenVINO 2026.4.1; all timed in turns.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "report.json"]
    assert losparse("inspect", out / "dense-onnx").code == 0
    check = ("check", out / "compressed-onnx", "--reference", out / "compressed")
    assert losparse(*check).code == 0


def test_a_demo_that_fails_leaves_nothing(losparse: Command, tiny: DemoSetup, tmp_path: Path) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise LosparseError("the exported model differs")

    load = demo_of(replace(tiny, export=refuse))
    losparse("demo", tmp_path / "out", "--steps", 2, load=load).refused("differs")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_out_is_refused_before_anything_is_fetched(
    losparse: Command, tiny: DemoSetup, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()

    def fetch() -> Path:
        raise AssertionError("fetched")

    losparse("demo", tmp_path / "out", load=demo_of(replace(tiny, find_model=fetch))).refused("exists", "--overwrite")


def result(model: str, speedup: float, length: int = 16) -> dict[str, Any]:
    return {"batch": 1, "length": length, "model": model, "speedup": speedup, "median_ms": 6 / speedup}


def test_what_costs_nothing_is_the_fastest_dense_model_at_every_shape() -> None:
    rows = [result("dense", 1.0), result("dense-int8", 2.0), result("compressed", 9.0), result("openvino-int8", 3.0)]
    rows += [result("dense", 1.0, 128), result("dense-int8", 0.8, 128), result("compressed-int8", 4.0, 128)]
    assert best_free(rows) == [
        {"batch": 1, "length": 16, "model": "openvino-int8", "speedup": 3.0},
        {"batch": 1, "length": 128, "model": "dense", "speedup": 1.0},
    ]


def test_the_table_compares_with_openvino_where_that_is_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    speedups = {"dense": 1.0, "dense-int8": 2.0, "compressed": 2.5, "compressed-int8": 6.0, "openvino-int8": 3.0}
    rows = [result(name, speedup) for name, speedup in speedups.items()]
    model = {
        "test_accuracy": 0.5, "layer_parameters": 9, "model_parameters": 10, "file_bytes": 40, "onnx_bytes": 41,
        "check": {"parts": {"texts": {"max_abs": 0.5}}},
    }  # fmt: skip
    entries: dict[str, dict[str, str]] = {name: {} for name in MODELS} | {"openvino-int8": {"openvino": "int8"}}
    bench = {"results": rows, "models": entries, "versions": {"openvino": "2026.4.1"}}
    report = {"models": dict.fromkeys(MODELS, model), "bench": bench, "best_free": best_free(rows),
              "labels": ["a", "b"], "examples": {"test": 3}, "total_seconds": 1.0}  # fmt: skip
    demo._print(Path("out"), report)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["as", "fast", "as", "OpenVINO", "int8", "0.33x", "0.67x", "0.83x", "2.00x"] in lines
    del entries["openvino-int8"]
    assert "OpenVINO, which was not found: LOSPARSE_OPENVINO_PYTHON may name" in demo._against(bench)


def test_accuracy_is_counted_by_names() -> None:
    session: Any = SimpleNamespace(classify=lambda texts: [SimpleNamespace(label=text[0]) for text in texts])
    examples = Examples(["x1", "y2", "y3", "x4"], None, [1, 0, 1, 1], ("y", "x"))
    assert accuracy(session, examples) == 0.75


def test_steps_shorten_both_trainings() -> None:
    assert {name: recipe.training.max_steps for name, recipe in make_recipes(1).items()} == {
        "dense": 1,
        "compressed": 1,
    }
    full = make_recipes(None)
    assert full["compressed"].method.keep == 0.2
    assert full["dense"].training.max_steps == DENSE_STEPS
