"""`losparse demo` on a tiny model: a recipe and its build, as on the real one."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from losparse.building.work import Tools
from losparse.cli import demo
from losparse.cli.main import Load
from losparse.data.examples import Examples
from losparse.demo import DocstringData
from losparse.demo.run import COMPRESSED_STEPS, DENSE_STEPS, DemoSetup, make_recipe
from losparse.errors import LosparseError
from tests.openvino import use_stand_in

from .conftest import Command, Sources, make_texts


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
    return DemoSetup(lambda: sources.model, tiny_data, max_length=32, shapes=((1, 4),), keep=(0.3,))


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
    done = losparse("demo", out, "--steps", 4, "--json", tmp_path / "build.json", load=demo_of(tiny))
    assert done.code == 0 and "error" not in done.err
    facts = json.loads((out / "build.json").read_text())
    assert facts == json.loads((tmp_path / "build.json").read_text())
    assert list(facts["models"]) == ["dense", "dense-int8", "openvino-int8", "fp32", "int8"]
    assert [row["model"] for row in facts["bench"]["results"]] == [
        "dense", "dense-int8", "fp32", "int8", "openvino-int8"
    ]  # fmt: skip
    assert facts["bench"]["versions"]["openvino"].startswith("2026.4.1")
    assert facts["texts"] == 32 and facts["models"]["dense"]["bytes"] > facts["models"]["int8"]["bytes"]
    assert [row["keep"] for row in facts["details"]["keep"]] == [1.0, 1.0, 0.3, 0.3]
    assert done.out.splitlines()[-1] == f"page: {out / 'report.html'}"
    again = losparse("demo", out, "--steps", 4, load=demo_of(tiny))
    assert again.code == 0 and "nothing to do" in again.out
    check = ("check", out / "onnx", "--reference", out / "compressed")
    assert losparse(*check).code == 0


def test_a_demo_that_fails_says_why_and_goes_on_later(losparse: Command, tiny: DemoSetup, tmp_path: Path) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise LosparseError("no room")

    load = demo_of(replace(tiny, tools=Tools(compress=refuse)))
    losparse("demo", tmp_path / "out", "--steps", 2, load=load).refused("no room")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".steps", "data"}


def test_an_existing_out_is_refused_before_anything_is_fetched(
    losparse: Command, tiny: DemoSetup, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    def fetch() -> Path:
        raise AssertionError("fetched")

    load = demo_of(replace(tiny, find_model=fetch))
    losparse("demo", tmp_path / "out", load=load).refused("was not written by losparse build")


def test_steps_shorten_both_trainings(tiny: DemoSetup, tmp_path: Path) -> None:
    short, whole = (make_recipe(tmp_path, tmp_path, tiny, steps) for steps in (1, None))
    for recipe, dense, compressed in ((short, 1, 1), (whole, DENSE_STEPS, COMPRESSED_STEPS)):
        assert recipe.dense is not None
        assert (recipe.dense.max_steps, recipe.compress.training.max_steps) == (dense, compressed)
    assert whole.gates.min_speedup is not None and short.gates.min_speedup is None
