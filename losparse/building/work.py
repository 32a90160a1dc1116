"""What the steps of one build share: the recipe, where its parts are, and the functions that do the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from losparse_export.settings import ExportSettings
from losparse_runtime.contract.progress import Progress

from ..pipeline.run import compress_folder
from ..saving.source import find_model
from .cache import FOLDER
from .recipe import BuildRecipe

MEASURING = ("dense", "compress", "baseline", "export", "accuracy", "bench", "details")
"""Names of the steps before the gates, in order."""


def _export(*args: Any, **options: Any) -> Any:
    from losparse_export import export_variants  # loads torch

    return export_variants(*args, **options)


def _accuracy(*args: Any, **options: Any) -> Any:
    from losparse_export.accuracy import measure_variants

    return measure_variants(*args, **options)


def _report(*args: Any, **options: Any) -> Any:
    from ..reporting import write_report

    return write_report(*args, **options)


@dataclass(frozen=True)
class Tools:
    """The functions that do the work of steps; a test may give others.

    Attributes:
        compress: as `compress_folder`.
        export: as `losparse_export.export_variants`.
        accuracy: as `losparse_export.accuracy.measure_variants`.
        report: as `losparse.reporting.write_report`.
    """

    compress: Callable[..., Any] = compress_folder
    export: Callable[..., Any] = _export
    accuracy: Callable[..., Any] = _accuracy
    report: Callable[..., Any] = _report


@dataclass(frozen=True)
class Work:
    """One build.

    Attributes:
        recipe: what it does.
        out: its folder.
        progress: shows the stages.
        tools: what does the work.
    """

    recipe: BuildRecipe
    out: Path
    progress: Progress
    tools: Tools = field(default_factory=Tools)

    @cached_property
    def model(self) -> Path:
        """Folder of the dense model that the recipe names."""
        return find_model(self.recipe.model)

    @property
    def dense(self) -> Path:
        """Folder of the dense model that is compressed, and compared with."""
        return self.model if self.recipe.dense is None else self.out / "dense"

    @property
    def teacher(self) -> Path | str | None:
        """The model that the compressed one imitates, if it does."""
        if not (self.recipe.distils and self.trains):
            return None
        return self.recipe.teacher or self.dense

    @property
    def trains(self) -> bool:
        """Whether the compressed model is trained."""
        return self.recipe.recover and self.recipe.data.train is not None

    @property
    def compressed(self) -> Path:
        """Checkpoint of the compressed model."""
        return self.out / "compressed"

    @property
    def baseline(self) -> Path:
        """The dense model as an ONNX folder."""
        return self.out / "baseline"

    @property
    def candidates(self) -> Path:
        """All variants that equal PyTorch, before the other gates."""
        return self.out / FOLDER / "candidates"

    @property
    def shipped(self) -> Path:
        """The variants that passed every gate."""
        return self.out / "onnx"

    def facts(self, step: str) -> Path:
        """File of what a step found out."""
        return self.out / FOLDER / f"{step}-facts.json"


def defaults_of(*names: str) -> dict[str, Any]:
    """Return the default values of some settings of an export: what is meant for the compressed model alone."""
    plain = ExportSettings()
    return {name: getattr(plain, name) for name in names}


def task_of(work: Work) -> str | None:
    """Return the task to export for: what a checkpoint that was trained says itself, else that of the recipe."""
    return None if work.trains or work.recipe.dense is not None else work.recipe.compress.task
