"""The steps of a build, in order: what each reads, does and writes.

dense --> compress --> export -----> accuracy --> bench --> details --> gate --> report
     `--------------> baseline --^
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..environment import machine, versions
from ..saving.source import find_model
from .details import look_into
from .digests import Digests, code_digest, combine
from .recipe import BuildRecipe
from .training import compress, fine_tune
from .variants import export_baseline, export_candidates, measure_accuracy, measure_times
from .verdict import decide
from .work import Work

_TRAINING = (
    *(f"losparse.{room}" for room in ("calibration", "data", "layers", "methods", "models", "pipeline", "saving")),
    *(f"losparse.{room}" for room in ("training", "validation", "compress", "compress_embeddings", "random_factors")),
    "losparse.building.training",
)
_EXPORT = (
    *_TRAINING,
    "losparse_export",
    "losparse_runtime",
    "losparse.building.variants",
    "losparse.building.opponents",
)
_TRAINED_BY = ("torch", "transformers", "accelerate", "peft", "numpy")
_EXPORTED_BY = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy")
_RUN_BY = ("onnxruntime", "numpy", "tokenizers")

Settings = Callable[[BuildRecipe], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: for messages, `--from` and its record.
        does: in words.
        settings: what of the recipe determines its result, as JSON values; None where a recipe has no such step.
        run: does it.
        writes: files and folders within OUT.
        after: steps whose results it reads.
        reads: files, folders, models and data sets from outside, by the recipe's name for them.
        code: modules of losparse that determine its result.
        packages: others that do.
        timed: whether its result hangs on the machine.
    """

    name: str
    does: str
    settings: Settings
    run: Callable[[Work], None]
    writes: tuple[str, ...]
    after: tuple[str, ...] = ()
    reads: Callable[[BuildRecipe], Mapping[str, str | None]] = lambda recipe: {}
    code: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    timed: bool = False

    def parts(self, recipe: BuildRecipe, digests: Digests, done: Mapping[str, str]) -> dict[str, Any]:
        """Return all that determines its result.

        Args:
            recipe: of the build.
            digests: of files and folders.
            done: digests of what the steps wrote that it reads.
        """
        sources = {name: source for name, source in self.reads(recipe).items() if source is not None}
        return {
            "settings": dict(self.settings(recipe) or {}),
            "inputs": {name: digest_of(name, source, digests) for name, source in sources.items()},
            "after": {name: done[name] for name in self.after if name in done},
            "code": code_digest(*self.code),
            "packages": {**versions(*self.packages), "python": platform.python_version()},
            **({"machine": machine()} if self.timed else {}),
        }


def digest_of(name: str, source: str, digests: Digests) -> str:
    """Return the digest of a source; of a data set on the hub that of its name, since its rows are not at hand."""
    path = find_model(source) if name in ("model", "teacher") else Path(source)
    return digests.path(path) or combine([("hub", source)])


def _texts(*names: str) -> Callable[[BuildRecipe], dict[str, str | None]]:
    return lambda recipe: {f"data.{name}": getattr(recipe.data, name) for name in names}


def _model(recipe: BuildRecipe) -> dict[str, str | None]:
    return {"model": recipe.model} if recipe.dense is None else {}


_HOW_TEXTS_ARE_READ = ("text_column", "pair_column", "label_column", "max_length", "validation_share")


def _reading(recipe: BuildRecipe, *, trains: bool = True) -> dict[str, Any]:
    names = _HOW_TEXTS_ARE_READ if trains else _HOW_TEXTS_ARE_READ[:3]
    return {f"data.{name}": getattr(recipe.data, name) for name in names}


def _dense(recipe: BuildRecipe) -> dict[str, Any] | None:
    if recipe.dense is None:
        return None
    return {"task": recipe.compress.task, "dense": asdict(recipe.dense), **_reading(recipe)}


def _compress(recipe: BuildRecipe) -> dict[str, Any]:
    return {"compress": recipe.compress.to_dict(), "recover": recipe.recover, **_reading(recipe)}


def _export_settings(recipe: BuildRecipe) -> dict[str, Any]:
    return {"export": recipe.export.to_dict(), "task": recipe.compress.task, **_reading(recipe, trains=False)}


def _bench(recipe: BuildRecipe) -> dict[str, Any]:
    found = recipe.to_dict()["bench"]
    return {f"bench.{name}": found[name] for name in ("shapes", "threads", "seconds", "openvino")}


def _details(recipe: BuildRecipe) -> dict[str, Any]:
    found = recipe.to_dict()["bench"]
    return {f"bench.{name}": found[name] for name in ("shapes", "threads", "keep")}


def _measured(recipe: BuildRecipe) -> dict[str, str | None]:
    return {"data.test": recipe.data.measured}


STEPS = (
    Step(
        "dense",
        "fine-tune the dense model",
        _dense,
        fine_tune,
        ("dense",),
        reads=lambda recipe: {"model": recipe.model} | _texts("train", "validation")(recipe),
        code=_TRAINING,
        packages=_TRAINED_BY,
    ),
    Step(
        "compress",
        "compress it",
        _compress,
        compress,
        ("compressed",),
        after=("dense",),
        reads=lambda recipe: (
            _model(recipe) | {"teacher": recipe.teacher} | _texts("train", "validation", "calibration")(recipe)
        ),
        code=_TRAINING,
        packages=_TRAINED_BY,
    ),
    Step(
        "baseline",
        "export the dense model",
        _export_settings,
        export_baseline,
        ("baseline",),
        after=("dense",),
        reads=_model,
        code=_EXPORT,
        packages=_EXPORTED_BY,
    ),
    Step(
        "export",
        "export every variant, each equal to PyTorch",
        _export_settings,
        export_candidates,
        (".steps/candidates", ".steps/export-facts.json"),
        after=("compress",),
        reads=lambda recipe: _texts("calibration")(recipe) | _measured(recipe) if recipe.export.calibrated else {},
        code=_EXPORT,
        packages=_EXPORTED_BY,
    ),
    Step(
        "accuracy",
        "measure how right they are",
        lambda recipe: None if recipe.data.measured is None else _reading(recipe, trains=False),
        measure_accuracy,
        (".steps/accuracy-facts.json",),
        after=("compress", "baseline", "export"),
        reads=_measured,
        code=_EXPORT,
        packages=_RUN_BY,
    ),
    Step(
        "bench",
        "time them in turns",
        _bench,
        measure_times,
        (".steps/bench-facts.json",),
        after=("baseline", "export"),
        code=_EXPORT,
        packages=_RUN_BY,
        timed=True,
    ),
    Step(
        "details",
        "look into them: layers, operators, bytes",
        _details,
        look_into,
        (".steps/details-facts.json",),
        after=("dense", "compress", "baseline", "export"),
        reads=_model,
        code=(*_EXPORT, "losparse.building.details", "losparse.building.layers"),
        packages=_EXPORTED_BY,
        timed=True,
    ),
    Step(
        "gate",
        "ship what passes every gate",
        lambda recipe: {"gates": asdict(recipe.gates), "name": recipe.title, **_bench(recipe)},
        decide,
        ("onnx", "build.json", "recipe.yaml"),
        after=("export", "baseline", "accuracy", "bench", "details"),
        code=("losparse.building", "losparse_runtime"),
        packages=_RUN_BY,
        timed=True,
    ),
    Step(
        "report",
        "write the page",
        lambda recipe: {},
        lambda work: work.tools.report(work.out),
        ("report.html", "report.md", "report.json"),
        after=("gate",),
        code=("losparse.reporting",),
        packages=("matplotlib",),
    ),
)
