"""Traces and exports that many tests read: a trace takes ten seconds, what follows it one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import losparse_export.export as pipeline
from losparse_export import TASKS, ExportReport, TaskModel, export_model, trace_model

from .builders import build_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bert() -> Any:
    """A factored BERT classifier; tests do not change it."""
    return build_model("bert", seed=1)


@pytest.fixture(scope="session")
def bert_trace(bert: Any) -> Any:
    """The trace of `bert`, as the tracer returns it; tests take a clone."""
    return trace_model(TaskModel(bert, TASKS["text-classification"]))


@pytest.fixture
def export_bert(bert: Any, bert_trace: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExportReport]:
    """`export_model` for models of the sizes of `bert`, with the trace done once."""

    def export(out: Path, source: Any = bert, **options: Any) -> ExportReport:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "trace_model", lambda model, *, opset: bert_trace.clone())
            return export_model(source, out, **options)

    return export
