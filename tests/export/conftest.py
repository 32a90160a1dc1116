"""Traces and exports that many tests read: a trace takes ten seconds, what follows it one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from losparse.methods import LoSparse
from losparse.random_factors import random_factors_
from losparse_export import ExportReport, TaskModel, export_model
from losparse_runtime.contract.task import TASKS

from .builders import build_model
from .traces import Traces

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def traces() -> Traces:
    """A tracer that remembers."""
    return Traces()


@pytest.fixture(scope="session")
def bert() -> Any:
    """A factored BERT classifier; tests do not change it."""
    return build_model("bert", seed=1)


@pytest.fixture(scope="session")
def bert_trace(bert: Any, traces: Traces) -> Any:
    """The trace of `bert`, as the tracer returns it; tests take a clone."""
    return traces(TaskModel(bert, TASKS["text-classification"]))


@pytest.fixture(scope="session")
def foldable() -> Any:
    """A BERT classifier of the sizes of `bert`, with random factors whose kept neurons fold away."""
    model = build_model("bert", factored=False, seed=1)
    random_factors_(model, LoSparse(keep=0.5, low_rank=0.1, structure="foldable", multiple=4), seed=1)
    return model


@pytest.fixture(scope="session")
def foldable_trace(foldable: Any, traces: Traces) -> Any:
    """The trace of `foldable`; tests take a clone."""
    return traces(TaskModel(foldable, TASKS["text-classification"]))


@pytest.fixture(scope="session")
def export_traced() -> Callable[..., ExportReport]:
    """`export_model` for a model that was traced before."""

    def export(trace: Any, source: Any, out: Path, **options: Any) -> ExportReport:
        return export_model(source, out, **options, tracer=lambda _: trace.clone())

    return export


@pytest.fixture
def export_bert(bert: Any, bert_trace: Any, export_traced: Any) -> Callable[..., ExportReport]:
    """`export_model` for models of the sizes of `bert`, with the trace done once."""
    return lambda out, source=bert, **options: export_traced(bert_trace, source, out, **options)


@pytest.fixture
def export_foldable(foldable: Any, foldable_trace: Any, export_traced: Any) -> Callable[..., ExportReport]:
    """`export_model` for `foldable`."""
    return lambda out, **options: export_traced(foldable_trace, foldable, out, **options)
