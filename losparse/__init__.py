"""losparse: low-rank plus structured sparse compression of transformers, down to a fast ONNX model.

Importing the package loads no torch: names are resolved when they are used. It also arranges that a compressed
folder opens with transformers' own `from_pretrained`, whenever transformers is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._register import register_when_imported
from .errors import LosparseError, names_extra

if TYPE_CHECKING:
    from .building.recipe import Bench, BuildRecipe, Data, Gates
    from .building.run import BuildReport, Planned, build, plan_build
    from .compress import compact_, compress_
    from .compress_embeddings import compress_embeddings_
    from .evaluation.evaluate import Evaluation, evaluate
    from .layers.factored import FactoredLinear
    from .layers.linear import find_targets
    from .methods import ASVD, FWSVD, LPAF, METHODS, ROM, SVD, LoSparse, OneShotLoSparse, StructuredPruning
    from .methods.losparse.callback import LoSparseCallback
    from .methods.losparse.layer import FactoredLinearTraining
    from .methods.lpaf.callback import LPAFCallback
    from .models.depth import drop_layers
    from .models.neurons import drop_neurons
    from .models.report import CompressionReport, LayerReport
    from .pipeline.job import CompressionJob
    from .pipeline.result import CompressedFolder
    from .pipeline.run import compress_folder
    from .publishing.hub import Pushed, push_to_hub
    from .publishing.settings import CardSettings
    from .reporting import collect_report, write_report
    from .saving.contents import FolderContents, StoredLayer, inspect_folder
    from .training.fine_tune import FineTuneResult, fine_tune
    from .training.recipe import Recipe, Training
    from .tuning.run import TuneReport, tune
    from .tuning.settings import Search

__version__ = "0.1.0"

_HOMES = {
    "ASVD": "methods",
    "CardSettings": "publishing.settings",
    "Bench": "building.recipe",
    "BuildRecipe": "building.recipe",
    "BuildReport": "building.run",
    "CompressedFolder": "pipeline.result",
    "CompressionJob": "pipeline.job",
    "CompressionReport": "models.report",
    "Data": "building.recipe",
    "Evaluation": "evaluation.evaluate",
    "FWSVD": "methods",
    "FactoredLinear": "layers.factored",
    "FactoredLinearTraining": "methods.losparse.layer",
    "FineTuneResult": "training.fine_tune",
    "FolderContents": "saving.contents",
    "Gates": "building.recipe",
    "LPAF": "methods",
    "LPAFCallback": "methods.lpaf.callback",
    "LayerReport": "models.report",
    "LoSparse": "methods",
    "LoSparseCallback": "methods.losparse.callback",
    "METHODS": "methods",
    "OneShotLoSparse": "methods",
    "Pushed": "publishing.hub",
    "Planned": "building.run",
    "ROM": "methods",
    "Recipe": "training.recipe",
    "SVD": "methods",
    "Search": "tuning.settings",
    "StoredLayer": "saving.contents",
    "StructuredPruning": "methods",
    "Training": "training.recipe",
    "TuneReport": "tuning.run",
    "build": "building.run",
    "collect_report": "reporting",
    "compact_": "compress",
    "compress_": "compress",
    "compress_embeddings_": "compress_embeddings",
    "compress_folder": "pipeline.run",
    "drop_layers": "models.depth",
    "drop_neurons": "models.neurons",
    "evaluate": "evaluation.evaluate",
    "find_targets": "layers.linear",
    "fine_tune": "training.fine_tune",
    "inspect_folder": "saving.contents",
    "push_to_hub": "publishing.hub",
    "plan_build": "building.run",
    "tune": "tuning.run",
    "write_report": "reporting",
}

__all__ = [
    "ASVD",
    "FWSVD",
    "LPAF",
    "METHODS",
    "ROM",
    "SVD",
    "Bench",
    "BuildRecipe",
    "BuildReport",
    "CardSettings",
    "CompressedFolder",
    "CompressionJob",
    "CompressionReport",
    "Data",
    "Evaluation",
    "FactoredLinear",
    "FactoredLinearTraining",
    "FineTuneResult",
    "FolderContents",
    "Gates",
    "LPAFCallback",
    "LayerReport",
    "LoSparse",
    "LoSparseCallback",
    "LosparseError",
    "OneShotLoSparse",
    "Planned",
    "Pushed",
    "Recipe",
    "Search",
    "StoredLayer",
    "StructuredPruning",
    "Training",
    "TuneReport",
    "build",
    "collect_report",
    "compact_",
    "compress_",
    "compress_embeddings_",
    "compress_folder",
    "drop_layers",
    "drop_neurons",
    "evaluate",
    "find_targets",
    "fine_tune",
    "inspect_folder",
    "plan_build",
    "push_to_hub",
    "tune",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'losparse' has no attribute {name!r}")
    with names_extra(f"losparse.{name}", "train"):
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


register_when_imported()
