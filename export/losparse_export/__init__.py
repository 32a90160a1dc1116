"""From a transformers model, dense or compressed, to an ONNX folder whose outputs equal PyTorch's.

    from losparse_export import export_model
    export_model("my-compressed-model", "OUT")

Names are loaded when they are used: plans can be made, read and edited without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accuracy.texts import TextFile
    from .check import check_folder, check_session
    from .estimate import Estimate, estimate_model
    from .export import ExportReport, export_model
    from .graph.node import LayerShape
    from .lower import lower_model
    from .lowerings import LOWERINGS
    from .opening.task_model import TaskModel
    from .parity.gate import ParityError, ParityReport
    from .plan import Candidate, LayerPlan, Plan, candidates, plan_layers, plan_model
    from .precision.apply import apply_precision
    from .precision.table import PRECISION_TABLE, PRECISIONS, Precision
    from .tracing.trace import trace_model
    from .tune import Call, tune_plan

_HOMES = {
    "Call": "tune",
    "Estimate": "estimate",
    "Candidate": "plan",
    "ExportReport": "export",
    "LOWERINGS": "lowerings",
    "LayerPlan": "plan",
    "LayerShape": "graph.node",
    "ParityError": "parity.gate",
    "ParityReport": "parity.gate",
    "PRECISIONS": "precision.table",
    "PRECISION_TABLE": "precision.table",
    "Plan": "plan",
    "Precision": "precision.table",
    "TaskModel": "opening.task_model",
    "TextFile": "accuracy.texts",
    "apply_precision": "precision.apply",
    "candidates": "plan",
    "check_folder": "check",
    "check_session": "check",
    "estimate_model": "estimate",
    "export_model": "export",
    "lower_model": "lower",
    "plan_layers": "plan",
    "plan_model": "plan",
    "trace_model": "tracing.trace",
    "tune_plan": "tune",
}

__all__ = [
    "LOWERINGS",
    "PRECISIONS",
    "PRECISION_TABLE",
    "Call",
    "Candidate",
    "Estimate",
    "ExportReport",
    "LayerPlan",
    "LayerShape",
    "ParityError",
    "ParityReport",
    "Plan",
    "Precision",
    "TaskModel",
    "TextFile",
    "apply_precision",
    "candidates",
    "check_folder",
    "check_session",
    "estimate_model",
    "export_model",
    "lower_model",
    "plan_layers",
    "plan_model",
    "trace_model",
    "tune_plan",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'losparse_export' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
