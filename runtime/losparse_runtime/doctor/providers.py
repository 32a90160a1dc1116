"""Execution providers that really compute: each opens a session of one node, none of which may be left to the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..contract.variant import DEFAULT_PROVIDER
from ..dependencies import import_onnxruntime, installed_onnxruntimes
from ..engine.choice import GPU_PROVIDERS
from ..engine.providers import last_words, preload_cuda, way_to_cuda
from ..errors import DependencyError, one_line
from .findings import Finding, Level
from .one_node import WIDTH, one_node_model

_SERVICES = "AzureExecutionProvider"
_FATAL, _WARNING = 4, 2  # severities of onnxruntime's log; what it prints beside an exception says the same


def look_at_providers(ort: Any = None) -> list[Finding]:
    """Open a model of one node on every execution provider that this onnxruntime brings.

    Args:
        ort: onnxruntime; default: the one that is installed.

    Returns:
        A finding a provider; one problem alone where onnxruntime does not load.
    """
    try:
        ort = import_onnxruntime() if ort is None else ort
    except DependencyError as error:
        return [Finding("providers", "problem", one_line(error))]
    available = ort.get_available_providers()
    ort.set_default_logger_severity(_FATAL)
    try:
        if any(name in GPU_PROVIDERS for name in available):
            preload_cuda(ort)
        return [_look_at(ort, name) for name in available]
    finally:
        ort.set_default_logger_severity(_WARNING)


def _look_at(ort: Any, name: str) -> Finding:
    if name == _SERVICES:
        return Finding(name, "ok", "installed; it calls services on the network, and computes nothing by itself")
    try:
        why_not = _why_not(ort, name)
    except Exception as error:  # onnxruntime's own errors have no common base below Exception
        why_not = last_words(error)
    if why_not is None:
        return Finding(name, "ok", "computes", facts={"usable": True})
    of_cuda = name in GPU_PROVIDERS
    way_out = way_to_cuda(installed_onnxruntimes()) if of_cuda else f"run without it: leave out --provider {name}"
    level: Level = "problem" if name == DEFAULT_PROVIDER else "warning"
    return Finding(name, level, f"installed, but does not compute: {why_not}", way_out, {"usable": False})


def _why_not(ort: Any, name: str) -> str | None:
    """Run the one node on a provider; returns why it did not, None where it did."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.intra_op_num_threads = 1
    if name != DEFAULT_PROVIDER:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(one_node_model(), settings, providers=[name], enable_fallback=0)
    if name not in session.get_providers():
        return "onnxruntime dropped it, as where a library that it needs is missing"
    sent = np.arange(WIDTH, dtype=np.float32)
    (got,) = session.run(["y"], {"x": sent})
    return None if np.array_equal(got, sent + sent) else f"it says that {sent.tolist()} twice is {got.tolist()}"
