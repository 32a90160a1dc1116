"""What `losparse build` refuses before it works, and what a build that is killed leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from losparse_export import ExportSettings, export_variants

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
