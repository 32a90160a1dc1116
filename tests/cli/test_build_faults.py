"""What `losparse build` refuses before it works, and what a build that is killed leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from losparse_export import ExportSettings, export_variants
from losparse_runtime import read_folder
from losparse_runtime.same_model import same_labels

from .conftest import Command, Sources


@pytest.fixture
def recipe(sources: Sources, tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"model": str(sources.model), "data": {"train": str(sources.train)}}))
    return file


def test_a_shape_that_is_too_long_is_refused_before_anything_is_trained(
    losparse: Command, recipe: Path, tmp_path: Path
) -> None:
    refused = losparse("build", recipe, tmp_path / "out", "bench.shapes=[[1, 8], [1, 33]]")
    refused.refused("bench.shapes has 1 x 33, and the model has 32 positions; shorten it")
    assert not (tmp_path / "out").exists()


class Looking:
    """A progress that remembers which hidden folders are there while variants are joined."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, set[str]()

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        yield lambda *steps, **more: self.found.update(path.name for path in self.folder.glob(".*"))


def test_all_that_an_export_writes_for_a_while_is_known_by_its_suffix(sources: Sources, tmp_path: Path) -> None:
    looking = Looking(tmp_path)
    export_variants(sources.model, tmp_path / "out", ExportSettings(precision=("fp32", "int8")), progress=looking)
    assert any(name.startswith(".forms.") for name in looking.found)
    # What a build that is killed leaves is removed by these suffixes.
    assert {Path(name).suffix for name in looking.found} == {".tmp"}
    assert not list(tmp_path.glob(".*"))


def test_a_model_that_does_not_name_its_classes_is_compared_by_their_order(
    losparse: Command, sources: Sources, tmp_path: Path
) -> None:
    recipe = {
        "model": str(sources.model),  # of LABEL_0 and LABEL_1
        "data": {"train": str(sources.train), "test": str(sources.validation)},
        "compress": {"training": {"max_steps": 2}},
        "export": {"precision": "fp32"},
        "bench": {"shapes": [[1, 8]], "seconds": 0.01, "openvino": False, "keep": []},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = losparse("build", tmp_path / "recipe.yaml", tmp_path / "out")
    assert done.code == 0, done.err
    assert read_folder(tmp_path / "out" / "onnx").labels == ("bad", "good")
    assert read_folder(tmp_path / "out" / "baseline").labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (("bad", "good"), ("bad", "good"), True),
        (("bad", "good"), ("good", "bad"), False),
        (("bad", "good"), ("LABEL_0", "LABEL_1"), True),
        (("LABEL_0", "LABEL_1"), ("0", "1"), True),
        (("LABEL_1", "LABEL_0"), ("bad", "good"), False),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("bad", "good"), False),
        (None, None, True),
        (None, ("bad", "good"), False),
    ],
)
def test_which_labels_may_be_the_same(one: tuple[str, ...] | None, two: tuple[str, ...] | None, same: bool) -> None:
    assert same_labels(one, two) is same and same_labels(two, one) is same
