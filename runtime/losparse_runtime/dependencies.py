"""Imports of the two optional packages, at the first use, with the line that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import DependencyError, one_line


def import_onnxruntime() -> ModuleType:
    """The onnxruntime module.

    Raises:
        DependencyError: it is not installed or does not load.
    """
    # The CPU and the GPU wheel install the same module, so which one is here can only be said by its providers.
    return _import("onnxruntime", "pip install losparse[runtime] (CPU) or pip install losparse[gpu] (CUDA), never both")


def import_tokenizers() -> ModuleType:
    """The tokenizers module.

    Raises:
        DependencyError: it is not installed or does not load.
    """
    return _import("tokenizers", "pip install losparse[runtime]")


def _import(name: str, way_out: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(f"{name} cannot be imported ({one_line(error)}): {way_out}") from error
