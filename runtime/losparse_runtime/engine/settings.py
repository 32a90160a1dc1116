"""The options of an onnxruntime session, as onnxruntime has them."""

from __future__ import annotations

from typing import Any

from ..contract.variant import DEFAULT_PROVIDER
from .options import FAST, Options

_ERRORS_ONLY = 3  # onnxruntime's log severity: its warnings are about the graph, which the user did not write


def session_settings(ort: Any, options: Options) -> Any:
    """Return an `onnxruntime.SessionOptions` for a model.

    Args:
        ort: onnxruntime.
        options: of opening it.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _ERRORS_ONLY
    # A plan is one block of memory that a shape needs in all. Blocks of many sizes do not fit into the holes that
    # others left, so the arena grows with the shapes; without plans holes are of the sizes of tensors, and used again.
    settings.enable_mem_pattern = options.memory == FAST
    for scope in ("intra_op", "inter_op"):
        settings.add_session_config_entry(f"session.{scope}.allow_spinning", "1" if options.spinning else "0")
    if options.providers[0] != DEFAULT_PROVIDER:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not options.cpu_nodes:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return settings
