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
    from .compress import compact_, compress_
    from .compress_embeddings import compress_embeddings_
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
    from .saving.contents import FolderContents, StoredLayer, inspect_folder
    from .training.fine_tune import FineTuneResult, fine_tune
    from .training.recipe import Recipe, Training

__version__ = "0.1.0"

_HOMES = {
    "ASVD": "methods",
    "CardSettings": "publishing.settings",
    "CompressedFolder": "pipeline.result",
    "CompressionJob": "pipeline.job",
    "CompressionReport": "models.report",
    "FWSVD": "methods",
    "FactoredLinear": "layers.factored",
    "FactoredLinearTraining": "methods.losparse.layer",
    "FineTuneResult": "training.fine_tune",
    "FolderContents": "saving.contents",
    "LPAF": "methods",
    "LPAFCallback": "methods.lpaf.callback",
    "LayerReport": "models.report",
    "LoSparse": "methods",
    "LoSparseCallback": "methods.losparse.callback",
    "METHODS": "methods",
    "OneShotLoSparse": "methods",
    "Pushed": "publishing.hub",
    "ROM": "methods",
    "Recipe": "training.recipe",
    "StructuredPruning": "methods",
    "SVD": "methods",
    "StoredLayer": "saving.contents",
    "Training": "training.recipe",
    "compact_": "compress",
    "compress_": "compress",
    "compress_embeddings_": "compress_embeddings",
    "compress_folder": "pipeline.run",
    "drop_layers": "models.depth",
    "drop_neurons": "models.neurons",
    "find_targets": "layers.linear",
    "fine_tune": "training.fine_tune",
    "inspect_folder": "saving.contents",
    "push_to_hub": "publishing.hub",
}

__all__ = [
    "ASVD",
    "FWSVD",
    "LPAF",
    "METHODS",
    "ROM",
    "SVD",
    "CardSettings",
    "CompressedFolder",
    "CompressionJob",
    "CompressionReport",
    "FactoredLinear",
    "FactoredLinearTraining",
    "FineTuneResult",
    "FolderContents",
    "LPAFCallback",
    "LayerReport",
    "LoSparse",
    "LoSparseCallback",
    "LosparseError",
    "OneShotLoSparse",
    "Pushed",
    "Recipe",
    "StoredLayer",
    "StructuredPruning",
    "Training",
    "compact_",
    "compress_",
    "compress_embeddings_",
    "compress_folder",
    "drop_layers",
    "drop_neurons",
    "find_targets",
    "fine_tune",
    "inspect_folder",
    "push_to_hub",
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
