"""The gate: what is compared, what passes, and what a failure says and leaves behind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from losparse.errors import LosparseError
from losparse_export import ParityError, TaskModel, lower_model, plan_model
from losparse_export.folder.model import save_model
from losparse_export.parity.gate import check_parity, make_feeds
from losparse_export.parity.lengths import Case
from losparse_export.parity.locate import first_difference, record_outputs
from losparse_runtime import FolderError, Session, read_metadata
from losparse_runtime.checking.bounds import allowed_difference
from losparse_runtime.contract.progress import Advance
from losparse_runtime.contract.task import TASKS

from .blocks import finish_model
from .builders import build_model


@pytest.mark.parametrize(("family", "pad"), [("bert", 0), ("roberta", 1), ("distilbert", 0)])
def test_feeds(family, pad):
    model = TaskModel(build_model(family, factored=False), TASKS["feature-extraction"])
    feeds = make_feeds(model, Case(3, 24, padded=True))
    ids, mask = feeds["input_ids"], feeds["attention_mask"]
    assert all(array.dtype == np.int64 and array.shape == (3, 24) for array in feeds.values())
    assert ids.min() >= 0 and ids.max() < 100
    assert (ids[mask == 0] == pad).all() and (ids[mask == 1] != pad).all()
    assert mask[0].all() and mask[1:].sum(1).min() >= 1 and mask[1:].sum(1).max() < 24
    assert (np.diff(mask, axis=1) <= 0).all()  # padding is at the end
    assert np.array_equal(make_feeds(model, Case(3, 24, padded=True))["input_ids"], ids)
    assert not np.array_equal(make_feeds(model, Case(3, 24, padded=True), seed=1)["input_ids"], ids)
    if "token_type_ids" in feeds:
        assert set(np.unique(feeds["token_type_ids"])) == {0, 1}


def test_tolerance_follows_the_magnitude():
    assert allowed_difference(1e-4, 1.0) == pytest.approx(1e-4)
    assert allowed_difference(1e-4, 0.5, 20.0) == pytest.approx(2e-3)
    assert allowed_difference(1e-4, 0.0) == pytest.approx(1e-5)


def damaged(trace: ir.Model, weight: str, change: float, *, where: Any = (0, 0)) -> ir.Model:
    """Return a trace in which a number, or more, of a weight is another than the model's."""
    graph = trace.clone()
    value = graph.graph.initializers[weight]
    array = value.const_value.numpy().copy()
    array[where] += change
    value.const_value = ir.tensor(array, name=weight)
    return graph


@pytest.mark.parametrize("form", ["as planned", "dense"])
@pytest.mark.parametrize(
    "layer",
    [
        "bert.encoder.layer.0.attention.self.query",
        "bert.encoder.layer.1.attention.output.dense",
        "bert.encoder.layer.0.intermediate.dense",
    ],
)
def test_failure_names_the_layer_and_leaves_nothing(export_traced, bert, bert_trace, tmp_path, layer, form):
    plan = plan_model(bert_trace)
    chosen = plan.choose(dict.fromkeys(plan.layers, "dense")) if form == "dense" else None
    with pytest.raises(ParityError) as caught:
        export_traced(damaged(bert_trace, f"{layer}.u", 0.5), bert, tmp_path / "out", plan=chosen)
    assert caught.value.layer == layer and caught.value.max_abs > 1e-3
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"differs from PyTorch: \d\.\d\de[+-]\d+ in 'logits' at batch \d, length \d+ \(allowed", message)
    assert re.search(rf"the first layer that differs is '{re.escape(layer)}', by \d\.\d\de[+-]\d+$", message)
    assert os.listdir(tmp_path) == []


def test_nan_is_a_failure(export_traced, bert, bert_trace, tmp_path):
    trace = damaged(bert_trace, "bert.encoder.layer.1.output.dense.u", float("nan"))
    with pytest.raises(
        ParityError, match=r"NaN or infinity in 'logits' .* differs is 'bert\.encoder\.layer\.1\.output"
    ):
        export_traced(trace, bert, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_failure_with_overwrite_keeps_the_old_export(export_traced, bert, bert_trace, tmp_path):
    old = export_traced(bert_trace, bert, tmp_path / "out").metadata["fingerprint"]
    with pytest.raises(ParityError):
        trace = damaged(bert_trace, "bert.encoder.layer.1.output.dense.u", 1.0)
        export_traced(trace, bert, tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert old in (tmp_path / "out" / "losparse.json").read_text()


def test_a_wrong_weight_outside_the_layers_is_located(export_traced, bert, bert_trace, tmp_path):
    trace = damaged(bert_trace, "bert.embeddings.word_embeddings.weight", 0.1, where=(slice(None), 3))
    with pytest.raises(ParityError) as caught:
        export_traced(trace, bert, tmp_path / "out")
    assert caught.value.layer == "bert.embeddings.word_embeddings"


def test_torch_that_is_not_finite_is_said(export_bert, tmp_path):
    model = build_model("bert", seed=1)
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)  # finite, but its products are not
    with pytest.raises(LosparseError, match="PyTorch itself returns NaN or infinities in 'logits'"):
        export_bert(tmp_path / "out", model)
    assert os.listdir(tmp_path) == []


def test_equal_layers_give_no_difference(bert, bert_trace, tmp_path):
    """Also: every leaf of the model that the graph computes by name is compared."""
    graph = bert_trace.clone()
    save_model(finish_model(lower_model(graph, plan_model(graph))), tmp_path)
    model = TaskModel(bert, TASKS["text-classification"])
    feeds = make_feeds(model, Case(2, 7, padded=True))
    assert first_difference(model, tmp_path, feeds, 1e-4) is None
    first = first_difference(model, tmp_path, feeds, 0.0)  # rounding alone is then a difference
    assert first is not None and 0 < first.max_abs < 1e-4
    assert sorted(os.listdir(tmp_path)) == ["model.onnx"]


def test_hooks_are_removed(bert):
    model = TaskModel(bert, TASKS["text-classification"])
    with pytest.raises(RuntimeError), record_outputs(model):
        raise RuntimeError
    assert not any(module._forward_hooks for module in model.modules())


def test_progress_counts_to_the_end(export_bert, tmp_path):
    begun: list[tuple[str, int]] = []
    stages: list[str] = []
    reached = 0

    class Recorder:
        @contextmanager
        def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
            stages.append(title)
            yield advance

    def advance(done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None) -> None:
        nonlocal reached
        reached += done
        if title is not None and total is not None:
            begun.append((title, total))

    export_bert(tmp_path / "out", progress=Recorder())
    assert stages == ["exporting"]
    phases = ("opening the model", "tracing", "lowering", "writing")
    assert begun == [*((f"exporting: {phase}", 4) for phase in phases), ("exporting: comparing with PyTorch", 15)]
    assert reached == 15


def test_a_folder_does_not_open_before_it_was_compared(export_bert, tmp_path):
    """Whoever finds the folder of an export that is still going on, or was killed, is told so."""
    said: list[str] = []

    class Looks:
        @contextmanager
        def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
            yield look

    def look(done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None) -> None:
        if title is not None and title.endswith("comparing with PyTorch"):
            (made,) = tmp_path.glob(".out.*.tmp")
            assert read_metadata(made).parity is None
            with pytest.raises(FolderError) as refused:
                Session(made)
            said.append(str(refused.value))

    report = export_bert(tmp_path / "out", progress=Looks())
    assert said and all("no comparison with PyTorch" in line and "export it again" in line for line in said)
    assert read_metadata(tmp_path / "out").parity == report.metadata["parity"]
    Session(tmp_path / "out")


def test_check_of_a_folder(export_bert, bert, tmp_path):
    """The check stands alone: a folder against the model it came from, or should have come from."""
    export_bert(tmp_path / "out")
    task = TASKS["text-classification"]
    report = check_parity(TaskModel(bert, task), tmp_path / "out", seed=7)
    assert report.max_abs <= report.tolerance and len(report.cases) == 15
    with pytest.raises(ParityError):
        check_parity(TaskModel(build_model("bert", seed=2), task), tmp_path / "out")
