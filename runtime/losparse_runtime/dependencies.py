"""Imports of the two optional packages, at the first use, with the line that installs them."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

from .errors import DependencyError, one_line

# Distributions that install the module `onnxruntime`: of two, the one that came last has overwritten the other's files,
# and removing either removes the files they share.
_ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-training",
)
_CHOICE = "pip install losparse[runtime] (CPU) or pip install losparse[gpu] (CUDA), never both"


def import_onnxruntime() -> ModuleType:
    """The onnxruntime module.

    Raises:
        DependencyError: it is not installed, does not load, or is what removing one of two such packages left.
    """
    module = _import("onnxruntime", _CHOICE)
    if not hasattr(module, "InferenceSession"):
        named = " ".join(installed_onnxruntimes()) or "onnxruntime"
        raise DependencyError(
            "onnxruntime is there in parts only, as where one of two packages that hold it was removed; "
            f"pip uninstall {named}, then {_CHOICE}"
        )
    return module


def installed_onnxruntimes() -> list[str]:
    """The distributions here that hold the onnxruntime module; more than one is a broken installation."""
    found = []
    for name in _ONNXRUNTIMES:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


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
