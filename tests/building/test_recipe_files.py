"""Recipes of builds: files, overrides, the starter and the schema say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from losparse.building.recipe import BuildRecipe, Gates
from losparse.building.starter import TASKS_TO_BUILD, starter, values
from losparse.errors import LosparseError

TEXT = """\
model: m
data:
  train: train.csv
  test: test.csv
dense: {epochs: 3}
compress:
  method: {name: losparse, keep: 0.2}
export:
  precision: [fp32, int8]
gates:
  max_accuracy_drop: 1
  max_bytes: 20MB
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def test_a_file_python_and_plain_data_say_the_same(file: Path) -> None:
    recipe = BuildRecipe.read(file)
    assert BuildRecipe.from_dict(recipe.to_dict()) == recipe
    assert BuildRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.gates == Gates(max_accuracy_drop=1.0, max_bytes=20_000_000)
    assert recipe.export.precision == ("fp32", "int8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "keep: 0.2",
            "kep: 0.2",
            "recipe.yaml, line 7: unknown key 'compress.method.kep' of 'losparse'; did you mean 'keep'?",
        ),
        ("  test: test.csv", "  tset: test.csv", "recipe.yaml, line 4: unknown key 'data.tset'; did you mean 'test'?"),
        ("20MB", "20 elephants", "recipe.yaml, line 12: gates.max_bytes must be a number of bytes above 0, as in 20MB"),
        ("[fp32, int8]", "[fp32, int9]", "recipe.yaml, line 9: export.precision[1] must be one of"),
        ("  train: train.csv", "  # none", "recipe.yaml, line 5: dense needs labelled texts as data.train, got none"),
        (
            "  test: test.csv",
            "  # none",
            "recipe.yaml, line 10: gates have max_accuracy_drop, which needs labelled texts",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, message: str, file: Path) -> None:
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(LosparseError, match=re.escape(message)):
        BuildRecipe.read(file)


def test_overrides_win(file: Path) -> None:
    given = ["compress.method.keep=0.3", "gates.max_accuracy_drop=null", "export.precision=[fp32]", "dense.epochs=1"]
    recipe = BuildRecipe.read(file, given).to_dict()
    assert recipe["compress"]["method"]["keep"] == 0.3
    assert recipe["gates"]["max_accuracy_drop"] is None
    assert recipe["export"]["precision"] == ["fp32"]
    assert recipe["dense"]["epochs"] == 1


def test_another_method_takes_none_of_the_settings_of_the_one_before(file: Path) -> None:
    assert BuildRecipe.read(file, ["compress.method=svd"]).compress.to_dict()["method"]["name"] == "svd"
    named = BuildRecipe.read(file, ["compress.method.name=svd", "compress.method.keep=0.8"])
    assert named.compress.to_dict()["method"]["keep"] == 0.8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("compress.method.keep", "override 'compress.method.keep' must be KEY=VALUE"),
        (
            "compres.method.keep=0.3",
            "override 'compres.method.keep=0.3': unknown key 'compres'; did you mean 'compress'?",
        ),
        (
            "compress.method.keep=2",
            "override 'compress.method.keep=2': compress.method.keep must be a number in (0, 1]",
        ),
        ("compress.methd.keep=0.2", "override 'compress.methd.keep=0.2': unknown key 'compress.methd'; did you mean"),
        ("model.name=x", "override 'model.name=x': model is 'm', which has no keys"),
        ("gates.max_bytes=[", "override 'gates.max_bytes=[': the value is no YAML"),
        ("name=2024-99-99", "override 'name=2024-99-99': the value is no YAML; quote it"),
        ("name=&a [*a]", "override 'name=&a [*a]': the value is no YAML; quote it"),
        (f"name={'[' * 3000}", "the value is no YAML; quote it"),
        ('name="\\ud800"', "name must be a text, or null, got '\\ud800'"),
        ("bench.threads=100000", "bench.threads must be a whole number in [1, 1024], got 100000"),
    ],
)
def test_a_wrong_override_is_said_as_it_was_given(text: str, message: str, file: Path) -> None:
    with pytest.raises(LosparseError, match=re.escape(message)):
        BuildRecipe.read(file, [text])


def test_aliases_that_stand_for_billions_are_refused_at_once(file: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 10)]
    file.write_text("\n".join([TEXT, *lines]))
    with pytest.raises(LosparseError, match=r"cannot be read: its aliases stand for more than 100000 values$"):
        BuildRecipe.read(file)


def test_paths_are_looked_for_beside_the_file_first(file: Path) -> None:
    assert BuildRecipe.read(file).data.train == "train.csv"
    (file.parent / "train.csv").write_text("text,label\n")
    (file.parent / "m").mkdir()
    recipe = BuildRecipe.read(file)
    assert recipe.data.train == str(file.parent / "train.csv") and recipe.data.test == "test.csv"
    assert recipe.model == str(file.parent / "m")


@pytest.mark.parametrize("task", TASKS_TO_BUILD)
def test_the_starter_says_what_it_says_with_and_without_its_comments(task: str, tmp_path: Path) -> None:
    text = starter(task)
    (tmp_path / "r.yaml").write_text(text)
    recipe = BuildRecipe.read(tmp_path / "r.yaml")
    assert recipe == BuildRecipe.from_dict(values(task))
    everything = re.sub(r"(?m)^( *)# ([a-z_]+: )", r"\1\2", text)
    assert everything != text
    assert BuildRecipe.from_dict(yaml.safe_load(everything)) == recipe


def test_the_schema_has_every_key() -> None:
    schema = BuildRecipe.json_schema()
    assert list(schema["properties"]) == list(BuildRecipe.from_dict({"model": "m"}).to_dict())
    assert schema["required"] == ["model"] and schema["additionalProperties"] is False


@pytest.mark.parametrize(("text", "size"), [("20MB", 20_000_000), ("1.5 GiB", 1610612736), ("7", 7), ("2kB", 2000)])
def test_sizes_have_units(text: str, size: int) -> None:
    assert (
        Gates.__init__ and BuildRecipe.from_dict({"model": "m", "gates": {"max_bytes": text}}).gates.max_bytes == size
    )


def test_the_example_is_a_recipe() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "minilm-sst2.yaml"
    recipe = BuildRecipe.read(example, ["data.train=train.csv", "model=m"])
    assert recipe.data.train == "train.csv" and recipe.export.precision == ("fp32", "int8", "int8-vnni")
