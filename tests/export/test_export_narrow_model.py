"""A BERT of which whole heads, one whole attention and neurons are gone: exported, compared, read back, located.

Weights have magnitude 0.3, and 0.5 is added to one of them: what a layer returns is then off by 0.1 and more, while the
tolerance is that of the gate, 1e-4. Sums of another order are off by 1e-6.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from losparse import inspect_folder
from losparse_export import TaskModel, lower_model, plan_model
from losparse_export.folder.model import save_model
from losparse_export.parity.gate import make_feeds
from losparse_export.parity.lengths import Case
from losparse_export.parity.locate import first_difference
from losparse_export.passes import fold_model
from losparse_export.target import prepare_model
from losparse_export.tracing.factors import replace_factors
from losparse_runtime.contract.task import TASKS
from losparse_runtime.contract.variant import MODEL_FILE

from .blocks import finish_model, prefer
from .builders import build_model, make_layer
from .test_export_locate import change

TOLERANCE = 1e-4
LAYERS = "bert.encoder.layer."
SCORES, VALUES = list(range(17, 31, 2)), list(range(16, 28))  # of two heads of width 16: the first keeps nothing
KEPT = {
    "0.attention.self.query": SCORES,
    "0.attention.self.key": SCORES,
    "0.attention.self.value": VALUES,
    "0.attention.output.dense": VALUES,
    "0.intermediate.dense": [3, 10, 60],
    "0.output.dense": [3, 10, 60],
    "1.attention.self.query": SCORES,
    "1.attention.self.key": SCORES,
    "1.attention.self.value": [],
    "1.attention.output.dense": [],
    "1.intermediate.dense": [5],
    "1.output.dense": [5, 7],
}


@pytest.fixture(scope="module")
def narrow(foldable: Any) -> Any:
    """A BERT of the sizes and biases of `foldable`."""
    model, biases = build_model("bert", factored=False, seed=1), dict(foldable.named_parameters())
    for name, kept in KEPT.items():
        linear = model.get_submodule(LAYERS + name)
        axis = "in" if name.endswith("output.dense") else "out"
        layer = make_layer(linear.out_features, linear.in_features, rank=0, kept=kept, axis=axis)
        with torch.no_grad():
            layer.copy_(bias=biases[f"{LAYERS}{name}.bias"])
        model.set_submodule(LAYERS + name, layer)
    return model


@pytest.fixture(scope="module")
def narrow_trace(narrow: Any, foldable_trace: Any) -> ir.Model:
    """The trace of `foldable`, with the factors of `narrow`."""
    return replace_factors(foldable_trace, {LAYERS + name: narrow.get_submodule(LAYERS + name) for name in KEPT})


def test_what_is_gone_costs_nothing(narrow, narrow_trace, export_traced, tmp_path):
    report = export_traced(narrow_trace, narrow, tmp_path / "out")
    assert report.parity.max_abs <= report.parity.tolerance
    graph = ir.load(tmp_path / "out" / MODEL_FILE).graph
    counts = Counter(node.op_type for node in graph if "encoder" in (node.name or ""))
    assert not {"Expand", "Slice", "Gather", "Concat"} & set(counts) and counts["Attention"] == 1
    attention = next(node for node in graph if node.op_type == "Attention")
    assert attention.attributes["q_num_heads"].as_int() == 1
    assert attention.attributes["scale"].as_float() == 16**-0.5
    widths = [value.shape[-1] for value in attention.inputs[:3] if value is not None and value.shape is not None]
    assert widths == [len(SCORES), len(SCORES), len(VALUES)]
    reasons = {layer.name: layer.reason for layer in inspect_folder(tmp_path / "out").layers}
    assert f"{len(VALUES)}x32 of its 32x32 are left" in (reasons[f"{LAYERS}0.attention.self.value"] or "")
    assert "nobody needs its weights" in (reasons[f"{LAYERS}1.attention.self.query"] or "")


def locate(narrow: Any, trace: Any, folder: Path, weight: str | None) -> str | None:
    graph = prepare_model(trace.clone())
    fold_model(graph)
    graph = lower_model(graph, prefer(plan_model(graph), "constant", "dense"))
    if weight is not None:
        change(graph, weight)
    save_model(finish_model(graph), folder)
    model = TaskModel(narrow, TASKS["text-classification"])
    found = first_difference(model, folder, make_feeds(model, Case(2, 7, padded=True)), TOLERANCE)
    return None if found is None else found.layer


def test_right_weights_give_no_difference(narrow, narrow_trace, tmp_path):
    assert locate(narrow, narrow_trace, tmp_path, None) is None


@pytest.mark.parametrize("layer", ["0.attention.output.dense", "0.intermediate.dense", "0.output.dense"])
def test_a_wrong_weight_is_located(narrow, narrow_trace, tmp_path, layer):
    assert locate(narrow, narrow_trace, tmp_path, f"{LAYERS}{layer}.weight_t") == LAYERS + layer
