"""From a transformers model, dense or compressed, to an ONNX folder whose outputs equal PyTorch's.

    from losparse_export import export_model
    export_model("my-compressed-model", "OUT")

Names are loaded when they are used: plans can be made, read and edited without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from losparse.errors import names_extra

if TYPE_CHECKING:
    from .accuracy.texts import TextFile
    from .accuracy.variants import measure_variants
    from .check import check_folder, check_session
    from .costs import Call, Costs, Counts
    from .estimate import Estimate, estimate_model
    from .export import ExportReport, export_model
    from .golden import record_golden
    from .graph.layer import PlannedLayer
    from .keep_curve import latency_by_keep
    from .lowerings import LOWERINGS
    from .opening.task_model import TaskModel
    from .parity.gate import ParityError, ParityReport
    from .planning.choose import Candidate, candidates, plan_layers, plan_model
    from .planning.lower import lower_model
    from .planning.plan import LayerPlan, Plan
    from .planning.tune import tune_plan
    from .precision.apply import apply_precision
    from .precision.base import Precision
    from .precision.table import PRECISION_TABLE, PRECISIONS
    from .settings import ExportSettings
    from .target import CPU, TARGETS, Target
    from .tracing.trace import trace_model
    from .variants import VariantsReport, export_variants, keep_variants

_HOMES = {
    "CPU": "target",
    "Call": "costs",
    "Estimate": "estimate",
    "Candidate": "planning.choose",
    "Costs": "costs",
    "Counts": "costs",
    "ExportReport": "export",
    "ExportSettings": "settings",
    "LOWERINGS": "lowerings",
    "LayerPlan": "planning.plan",
    "PlannedLayer": "graph.layer",
    "ParityError": "parity.gate",
    "ParityReport": "parity.gate",
    "PRECISIONS": "precision.table",
    "PRECISION_TABLE": "precision.table",
    "Plan": "planning.plan",
    "Precision": "precision.base",
    "TARGETS": "target",
    "Target": "target",
    "TaskModel": "opening.task_model",
    "TextFile": "accuracy.texts",
    "VariantsReport": "variants",
    "apply_precision": "precision.apply",
    "candidates": "planning.choose",
    "check_folder": "check",
    "check_session": "check",
    "estimate_model": "estimate",
    "export_model": "export",
    "export_variants": "variants",
    "keep_variants": "variants",
    "latency_by_keep": "keep_curve",
    "lower_model": "planning.lower",
    "measure_variants": "accuracy.variants",
    "plan_layers": "planning.choose",
    "plan_model": "planning.choose",
    "record_golden": "golden",
    "trace_model": "tracing.trace",
    "tune_plan": "planning.tune",
}

__all__ = [
    "CPU",
    "LOWERINGS",
    "PRECISIONS",
    "PRECISION_TABLE",
    "TARGETS",
    "Call",
    "Candidate",
    "Costs",
    "Counts",
    "Estimate",
    "ExportReport",
    "ExportSettings",
    "LayerPlan",
    "ParityError",
    "ParityReport",
    "Plan",
    "PlannedLayer",
    "Precision",
    "Target",
    "TaskModel",
    "TextFile",
    "VariantsReport",
    "apply_precision",
    "candidates",
    "check_folder",
    "check_session",
    "estimate_model",
    "export_model",
    "export_variants",
    "keep_variants",
    "latency_by_keep",
    "lower_model",
    "measure_variants",
    "plan_layers",
    "plan_model",
    "record_golden",
    "trace_model",
    "tune_plan",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'losparse_export' has no attribute {name!r}")
    with names_extra(f"losparse_export.{name}", "export"):
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
