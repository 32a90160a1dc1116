"""What is looked at before any step runs: the recipe's model and files, and the folder of the build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from losparse_runtime.contract.task import TASK_FIELD, TASKS, find_task

from ..data.tables import check_source
from ..data.tasks.registry import find_data
from ..errors import LosparseError
from ..saving.folder import read_checkpoint
from ..saving.source import find_model
from .cache import FOLDER
from .recipe import BuildRecipe
from .variants import check_shapes


def check_folder(recipe: BuildRecipe, out: Path) -> None:
    """Refuse what cannot end well before any step runs: a file that is not there, a folder that is not ours.

    Raises:
        LosparseError: see above.
    """
    check_out_folder(out)
    plain = find_data(recipe.compress.task).plain if recipe.data.train is not None else True
    for name, text_alone in (("train", plain), ("validation", plain), ("test", False), ("calibration", True)):
        source = getattr(recipe.data, name)
        if source is not None:
            check_source(source, plain=text_alone)
    model = find_model(recipe.model)
    config = read_checkpoint(model).config
    check_shapes(recipe, config)
    _check_head(recipe, config)
    resolved = out.resolve()
    if model.resolve() == resolved or resolved in model.resolve().parents or model.resolve() in resolved.parents:
        raise LosparseError(
            f"OUT must be another folder than the model '{recipe.model}', and not within it; choose another"
        )


def _check_head(recipe: BuildRecipe, config: Mapping[str, Any]) -> None:
    """Refuse a model that does something else than it is to be compared by, where nothing fine-tunes it first.

    Raises:
        LosparseError: see above.
    """
    if recipe.dense is not None or recipe.data.train is None:
        return
    architecture = next(iter(config.get("architectures") or ()), None)
    task = find_task(architecture, config.get("problem_type"), named=config.get(TASK_FIELD))
    wanted = TASKS[recipe.compress.task]
    if task is None or task.auto_class != wanted.auto_class:
        raise LosparseError(
            f"model '{recipe.model}' is a {architecture}, which has no head for {wanted.name}, so there is no dense "
            "model to compare with; add `dense: {epochs: 3}` to the recipe, which fine-tunes it first"
        )


def check_out_folder(out: Path) -> None:
    """Refuse a folder that is not of a build.

    Raises:
        LosparseError: it is a file or a link, or holds what no build wrote.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise LosparseError(f"OUT '{out}' is a file or a link; choose another")
    if out.is_dir() and any(out.iterdir()) and not (out / FOLDER).is_dir():
        raise LosparseError(f"OUT '{out}' was not written by losparse build, so nothing is put there; choose another")
