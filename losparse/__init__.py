"""losparse: low-rank plus structured sparse compression of transformers, down to a fast ONNX model.

Importing the package loads no torch: names are resolved when they are used. It also arranges that a compressed
folder opens with transformers' own `from_pretrained`, whenever transformers is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._register import register_when_imported
from .errors import LosparseError

if TYPE_CHECKING:
    from .compress import CompressionReport, LayerReport, compact_, compress_
    from .depth import drop_layers
    from .finetune import FineTuneResult, fine_tune
    from .layers import FactoredLinear
    from .methods import (
        ASVD,
        FWSVD,
        LPAF,
        METHODS,
        ROM,
        SVD,
        LoSparse,
        OneShotLoSparse,
        StructuredPruning,
    )
    from .neurons import drop_neurons
    from .recipe import Recipe, Training
    from .residual import FactoredLinearTraining
    from .targets import find_targets
    from .training import LoSparseCallback
    from .training_lpaf import LPAFCallback

__version__ = "0.1.0"

_HOMES = {
    "ASVD": "methods",
    "CompressionReport": "compress",
    "FWSVD": "methods",
    "FactoredLinear": "layers",
    "FactoredLinearTraining": "residual",
    "FineTuneResult": "finetune",
    "LPAF": "methods",
    "LPAFCallback": "training_lpaf",
    "LayerReport": "compress",
    "LoSparse": "methods",
    "LoSparseCallback": "training",
    "METHODS": "methods",
    "OneShotLoSparse": "methods",
    "ROM": "methods",
    "Recipe": "recipe",
    "StructuredPruning": "methods",
    "SVD": "methods",
    "Training": "recipe",
    "compact_": "compress",
    "compress_": "compress",
    "drop_layers": "depth",
    "drop_neurons": "neurons",
    "find_targets": "targets",
    "fine_tune": "finetune",
}

__all__ = [
    "ASVD",
    "FWSVD",
    "LPAF",
    "METHODS",
    "ROM",
    "SVD",
    "CompressionReport",
    "FactoredLinear",
    "FactoredLinearTraining",
    "FineTuneResult",
    "LPAFCallback",
    "LayerReport",
    "LoSparse",
    "LoSparseCallback",
    "LosparseError",
    "OneShotLoSparse",
    "Recipe",
    "StructuredPruning",
    "Training",
    "compact_",
    "compress_",
    "drop_layers",
    "drop_neurons",
    "find_targets",
    "fine_tune",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'losparse' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


register_when_imported()
