"""Imports of the optional packages, at the first use, with the line that installs them.

The official builds of onnxruntime (from 1.29 on, other systems than Windows too) report to Microsoft: importing one
writes a device id under the cache folder and starts an uploader. Its documented switch, which it reads once, while it
is imported, is the environment variable `ORT_DISABLE_TELEMETRY`; importing this module sets it, unless it is set
already. `ORT_DISABLE_TELEMETRY=0` leaves the reports on.
"""

from __future__ import annotations

import importlib
import os
import re
from importlib.metadata import PackageNotFoundError, distribution, version
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
_CHOICE = "pip install 'losparse[runtime]' (CPU) or pip install 'losparse[gpu]' (CUDA), never both"

_SAFE_JINJA2 = (3, 1, 6)

TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"
_OFF = "1"

# At the import, not at the first use: so it holds too for what imports onnxruntime by itself after this package.
os.environ.setdefault(TELEMETRY_SWITCH, _OFF)


def import_onnxruntime(part: str = "") -> ModuleType:
    """The onnxruntime module, or a part of it, as in "quantization"; its reports are off, as the module says.

    Every import of onnxruntime in these packages goes through here.

    Args:
        part: path of a submodule; the module itself by default.

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
    if os.environ.get(TELEMETRY_SWITCH) == _OFF:
        # Where somebody imported it before this package was, the switch came too late for the first report alone.
        module.disable_telemetry_events()
    return _import(f"onnxruntime.{part}", _CHOICE) if part else module


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
    return _import("tokenizers", "pip install 'losparse[runtime]'")


def import_cryptography(part: str) -> ModuleType:
    """A part of cryptography, as in "exceptions": what signs folders, and compares signatures.

    Raises:
        DependencyError: it is not installed or does not load.
    """
    return _import(f"cryptography.{part}", "pip install 'losparse[sign]'")


def import_jinja2(part: str = "") -> ModuleType:
    """Jinja2, or a part of it, as in "sandbox": what writes conversations down by a model's template.

    Raises:
        DependencyError: it is not installed, does not load, or is older than 3.1.6, whose sandbox has known ways out.
    """
    way_out = "pip install 'losparse[chat]'"
    module = _import("jinja2", way_out)
    found = version("jinja2")
    if tuple(map(int, re.findall(r"\d+", found))) < _SAFE_JINJA2:
        raise DependencyError(f"jinja2 {found} has known ways out of its sandbox: {way_out}")
    return _import(f"jinja2.{part}", way_out) if part else module


def _import(name: str, way_out: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(f"{name} cannot be imported ({one_line(error)}): {way_out}") from error
