"""Toy steps of a build, which write text files: what decides whether a step runs is the same as for real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from losparse.building.recipe import BuildRecipe
from losparse.building.steps import Step
from losparse.building.work import Work
from losparse_runtime.contract.progress import SILENT


def toy_steps(runs: list[str], fail: Callable[[str], None] = lambda name: None) -> tuple[Step, ...]:
    """Three steps: `first` reads a file, `second` what `first` wrote, and `third` both."""

    def step(name: str, *after: str, key: str) -> Step:
        def run(work: Work) -> None:
            runs.append(name)
            (work.out / name).mkdir(exist_ok=True)
            fail(name)
            before = [(work.out / each / "text").read_text() for each in after]
            text = Path(str(work.recipe.data.train)).read_text() if not after else ""
            (work.out / name / "text").write_text(" ".join([*before, text, str(_get(work.recipe, key))]))

        return Step(
            name,
            f"do {name}",
            lambda recipe: None if recipe.name == f"no {name}" else {key: _get(recipe, key)},
            run,
            (name,),
            after=after,
            reads=lambda recipe: {} if after else {"data.train": recipe.data.train},
            code=("losparse.building.cache",),
            packages=("numpy",),
        )

    return (
        step("first", key="compress.training.epochs"),
        step("second", "first", key="export.opset"),
        step("third", "first", "second", key="gates.max_bytes"),
    )


def _get(recipe: BuildRecipe, key: str) -> object:
    value: object = recipe.to_dict()
    for part in key.split("."):
        assert isinstance(value, dict)
        value = value[part]
    return value


def work_of(recipe: BuildRecipe, out: Path) -> Work:
    return Work(recipe, out, SILENT)
