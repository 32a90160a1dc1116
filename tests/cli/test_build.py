"""`losparse build` on a tiny model: all steps, what a second run does, what gates keep out, and builds cut off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from losparse.building.recipe import BuildRecipe
from losparse.building.run import build
from losparse.building.work import Tools
from losparse.errors import LosparseError
from losparse_export import check_folder
from losparse_runtime import Session, read_folder

from .conftest import Command, Sources

STEPS = ["dense", "compress", "baseline", "export", "accuracy", "bench", "details", "gate", "report"]
EXACT = ["dense", "compress", "baseline", "export", "accuracy"]
"""Steps whose results do not hang on the clock."""


def recipe_of(sources: Sources) -> dict[str, Any]:
    return {
        "model": str(sources.model),
        "name": "tiny <model>",
        "data": {"train": str(sources.train), "test": str(sources.validation), "max_length": 16},
        "dense": {"max_steps": 6},
        "compress": {
            "method": {"name": "losparse", "keep": 0.5, "structure": "foldable", "window": 1},
            "training": {"max_steps": 12, "save_steps": 3, "distill_weight": 0.5},
        },
        "export": {"precision": ["fp32", "int8"]},
        "bench": {"shapes": [[1, 8], [2, 16]], "threads": 1, "seconds": 0.01, "openvino": False, "keep": []},
    }


@pytest.fixture(scope="module")
def recipe(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_of(sources)))
    return file


@pytest.fixture(scope="module")
def built(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole build, not to be changed."""
    out = tmp_path_factory.mktemp("built") / "out"
    report = build(recipe, out)
    assert list(report.ran) == STEPS and report.passed and report.shipped == ("fp32", "int8")
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def digests(out: Path) -> dict[str, str]:
    return {name: json.loads((out / ".steps" / f"{name}.json").read_text())["digest"] for name in EXACT}


def test_what_is_shipped_is_checked_measured_and_opens(built: Path) -> None:
    folder = read_folder(built / "onnx")
    assert {name: [model.file for model in each.models.values()] for name, each in folder.variants.items()} == {
        "fp32": ["model.onnx"],
        "int8": ["model_quantized.onnx"],
    }
    for variant in folder.variants.values():
        assert variant.parity is not None and variant.accuracy is not None
        # A machine that is disturbed gives no times to keep: a session is not to choose by them.
        calls = [call.partition(" ")[2] for call in variant.times or ()]  # behind the class of the CPU
        assert set(calls) <= {"1x8 1t", "2x16 1t"}
        assert 0 < variant.accuracy["error"] < 0.1 and set(variant.accuracy["differences"]) >= {"pytorch", "dense"}
    assert check_folder(built / "onnx", built / "compressed").passed
    (answer,) = Session(built / "onnx", threads=1).classify(["a fine film"])
    assert answer.label in ("good", "bad")


def _check_profiles(facts: dict[str, Any]) -> None:
    profiles, runs, parts = (facts["details"][name] for name in ("operators", "runs", "parts"))
    assert list(profiles) == list(runs) == list(parts) == ["dense", "fp32", "int8"]
    for name, rows in profiles.items():
        assert sum(row["share"] for row in rows) == pytest.approx(1.0)
        assert sum(row["ms"] for row in rows) == pytest.approx(runs[name]["operators_ms"])
        assert all(row["calls"] > 0 for row in rows) and runs[name]["run_ms"] > 0 and runs[name]["profiled_ms"] > 0
        assert sum(parts[name].values()) == facts["models"][name]["bytes"]


def test_the_report_says_what_was_found(built: Path) -> None:
    facts, report = (json.loads((built / name).read_text()) for name in ("build.json", "report.json"))
    assert list(facts["models"]) == ["dense", "dense-int8", "fp32", "int8"]
    assert [step["name"] for step in facts["steps"]] == STEPS[:-2]
    layers = facts["details"]["layers"]
    assert len(layers) == 12 and {layer["block"] for layer in layers} == {0, 1}
    assert all(layer["lowering"] and 0 < layer["error"] < 2 for layer in layers)
    # Of 32 features the sums are of at most 64 products: rounding, not another result.
    assert any(layer["parity"] is not None for layer in layers)
    assert all(layer["parity"] is None or layer["parity"] < 1e-5 for layer in layers)
    log = facts["details"]["training"]["compressed"]["log"]
    # The sparse parts have what the low-rank ones leave of the budget, to within a neuron of the smallest matrix, 1/32.
    sparse = sum(layer["kept"] * layer["shape"][layer["axis"] == "out"] for layer in layers)
    dense = sum(layer["dense_parameters"] for layer in layers)
    assert log[-1]["kept_share"] == pytest.approx(sparse / dense, abs=1 / 32) and log[-1]["kept_share"] < 0.5
    assert [row["step"] for row in log] == sorted({row["step"] for row in log}) and facts["details"]["training"][
        "dense"
    ]["log"]
    _check_profiles(facts)
    assert report["title"] == "tiny <model>" and report["passed"] is True
    page = (built / "report.html").read_text()
    assert "tiny &lt;model&gt;" in page and "tiny <model>" not in page


def test_a_second_run_does_nothing_and_a_copy_is_as_good(losparse: Command, recipe: Path, copy: Path) -> None:
    done = losparse("build", recipe, copy)
    assert (done.code, done.err) == (0, "")
    assert "nothing to do" in done.out and str(copy / "report.html") in done.out


def test_a_gate_that_fails_keeps_a_variant_out(losparse: Command, recipe: Path, copy: Path) -> None:
    size = read_folder(copy / "onnx").files["model.onnx"].bytes
    planned = losparse("build", recipe, copy, f"gates.max_bytes={size - 1}", "--dry-run")
    assert "gates.max_bytes: null ->" in planned.out and planned.out.count(" done ") == 7
    done = losparse("build", recipe, copy, f"gates.max_bytes={size - 1}")
    assert done.code == 1
    assert "failed: fp32: its files have" in done.out and "shipped:" in done.out
    assert list(read_folder(copy / "onnx").variants) == ["int8"]
    assert not (copy / "onnx" / "model.onnx").exists()
    none = losparse("build", recipe, copy, "gates.max_bytes=1")
    assert none.code == 1 and "shipped: nothing" in none.out
    assert not (copy / "onnx").exists() and (copy / "report.html").exists()
    assert losparse("build", recipe, copy).code == 0
    assert list(read_folder(copy / "onnx").variants) == ["fp32", "int8"]


def test_times_of_other_machines_stay(losparse: Command, recipe: Path, copy: Path) -> None:
    from losparse_runtime.contract.files import write_metadata

    folder = read_folder(copy / "onnx")
    times = {**(folder.variants["int8"].times or {}), "cpu-other 1x8 1t": 3.5}
    write_metadata(copy / "onnx", folder.measured("int8", times=times))
    assert losparse("build", recipe, copy, "--from", "gate").code == 0
    found = read_folder(copy / "onnx").variants["int8"].times
    assert found is not None and found["cpu-other 1x8 1t"] == 3.5


def _killed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def kill(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt(name)

    return kill


@pytest.mark.parametrize("step", ["compress", "accuracy"])
def test_killed_and_started_again_the_result_is_the_same(step: str, recipe: Path, built: Path, copy: Path) -> None:
    tools = Tools()
    with pytest.raises(KeyboardInterrupt):
        build(recipe, copy, start=step, tools=replace(tools, **{step: _killed(step, getattr(tools, step))}))
    report = build(recipe, copy)
    assert next(iter(report.ran)) == step
    assert digests(copy) == digests(built)


def test_a_training_goes_on_where_it_was_cut_off(recipe: Path, built: Path, copy: Path) -> None:
    from transformers import TrainerCallback

    from losparse.pipeline.run import compress_folder

    class Cut(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 8:
                raise KeyboardInterrupt

    def cut(job: Any, progress: Any) -> Any:
        return compress_folder(job, progress, [Cut()])

    with pytest.raises(KeyboardInterrupt):
        build(recipe, copy, start="compress", tools=Tools(compress=cut))
    assert (copy / "compressed.partial" / "checkpoint-6").is_dir()
    steps: list[int] = []

    class Count(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    def counted(job: Any, progress: Any) -> Any:
        return compress_folder(job, progress, [Count()])

    build(recipe, copy, tools=Tools(compress=counted))
    assert steps == [7, 8, 9, 10, 11, 12]
    assert digests(copy) == digests(built)


def test_what_cannot_end_well_is_refused_at_once(losparse: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    losparse("build", recipe, tmp_path / "mine").refused("was not written by losparse build", "choose another")
    losparse("build", recipe, tmp_path / "out", "data.train=gone.csv").refused("gone.csv")
    losparse("build", recipe, tmp_path / "out", "model=nowhere/at all").refused("does not exist")
    losparse("build", recipe, tmp_path / "out", "data.tset=x").refused("unknown key", "did you mean 'test'?")
    losparse("build", tmp_path / "none.yaml", tmp_path / "out").refused("does not exist")
    assert not (tmp_path / "out").exists()


def test_a_shape_beyond_the_model_is_refused(recipe: Path, copy: Path) -> None:
    with pytest.raises(LosparseError, match=r"bench\.shapes has 1 x 500, and the model has 32 positions"):
        build(recipe, copy, overrides=["bench.shapes=[[1, 500]]"])


def test_recipe_prints_what_a_build_would_take(losparse: Command, recipe: Path) -> None:
    whole = yaml.safe_load(losparse("recipe", recipe, "compress.method.keep=0.4").out)
    assert whole["compress"]["method"]["keep"] == 0.4
    assert BuildRecipe.from_dict(whole).to_dict() == whole
    assert json.loads(losparse("recipe", "--schema").out) == BuildRecipe.json_schema()
    assert losparse("recipe", "--init", "regression").out.startswith("# A build for regression")
    losparse("recipe").refused("one of RECIPE, --schema and --init TASK")


def test_report_compares_builds(losparse: Command, built: Path, copy: Path) -> None:
    done = losparse("report", copy, "--against", built)
    assert done.code == 0 and str(copy / "report.md") in done.out
    assert "Two builds: tiny" in (copy / "report.md").read_text()
    losparse("report", built.parent).refused("has no build.json")
