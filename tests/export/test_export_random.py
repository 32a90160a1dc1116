"""Every architecture with random factors, in forms for layers in order where they are, exported through the gate.

The gate compares with PyTorch at 1e-4 for outputs of magnitude 1 (`tolerances`); a trace takes five seconds, so each
architecture is traced once: the factors of the second structure are put into the graph of the first.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir
import pytest
import torch

from losparse.layers.factored import FactoredLinear
from losparse.methods import LoSparse
from losparse.random_factors import random_factors_
from losparse_export import Call, TaskModel
from losparse_export.opening.load import load_model
from losparse_export.passes import fold_model
from losparse_export.planning.choose import plan_model
from losparse_export.target import prepare_model
from losparse_export.tracing.factors import replace_factors

from .blocks import prefer
from .builders import MODELS, ROTARY, build_model
from .traces import Traces

# Their attention adds positions to the scores and is no single node, so heads are not followed.
_NO_ATTENTION = ("deberta-v2", "mpnet")
# Folds that are made in two blocks: query and key, value and output, up and down.
FOLDS = {family: 2 if family in _NO_ATTENTION else 6 for family in MODELS if family not in ROTARY}

IN_ORDER = ("split", "folded", "sliced", "absorbed", "columns")
OTHER = ("pivots_out", "pivots_in", "gather", "selector")


def compressed(family: str, structure: Any) -> Any:
    model = build_model(family, factored=False, seed=1)  # with these seeds BERT is `foldable`, which others trace too
    random_factors_(model, LoSparse(keep=0.5, low_rank=0.1, structure=structure, multiple=4), seed=1)
    return model


def factored(model: Any) -> dict[str, FactoredLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FactoredLinear)}


@pytest.fixture(scope="module", params=FOLDS)
def traced(request: pytest.FixtureRequest, traces: Traces) -> tuple[str, Any, Any]:
    """An architecture whose layers decide together, and its trace."""
    model = compressed(request.param, "foldable")
    return request.param, model, traces(TaskModel(model, load_model(model, None).task))


@pytest.mark.parametrize("structure", ["foldable", "rows"])
def test_architecture(traced, structure, export_traced, tmp_path):
    family, model, trace = traced
    if structure == "rows":
        first, model = factored(model), compressed(family, structure)
        with torch.no_grad():  # the graph keeps the biases of the first
            for name, layer in factored(model).items():
                layer.copy_(bias=first[name].bias)
        trace = replace_factors(trace, factored(model))
    graph = prepare_model(trace.clone())
    folds = fold_model(graph)
    assert sum(fold.refused is None for fold in folds) == FOLDS[family]
    for place, forms in enumerate((IN_ORDER, OTHER)):
        plan = prefer(plan_model(graph, calls=Call(length=4), folds=folds), *forms)
        report = export_traced(trace, model, tmp_path / str(place), plan=plan)
        assert report.parity.max_abs <= report.parity.tolerance
        assert_forms(Counter(layer.lowering for layer in report.plan.layers.values()), family, structure, place)


# What the others give is in `test_export_model`, with the older operator set or dense.
OUTPUTS = {
    "roberta": {"logits": ["batch", "sequence", 2]},
    "distilbert": {"start_logits": ["batch", "sequence"], "end_logits": ["batch", "sequence"]},
    "deberta-v2": {"logits": ["batch", 2]},
}


# Texts of one token more than the distances that a model has a bucket of its own for.
BEYOND_BUCKETS = {"deberta-v2": {17}, "mpnet": {33}}


def test_outputs(traced, export_traced, tmp_path):
    family, model, trace = traced
    report = export_traced(trace, model, tmp_path / "out")
    assert report.parity.max_abs <= report.parity.tolerance
    lengths = {case["length"] for case in report.parity.cases}
    assert {17, 33} & lengths == BEYOND_BUCKETS.get(family, set())
    outputs = {spec["name"]: spec["shape"] for spec in report.metadata["outputs"]}
    assert outputs == OUTPUTS.get(family, outputs)
    graph = ir.load(report.folder / "model.onnx")
    assert (graph.graph.opset_imports, graph.ir_version) == ({"": 23}, 11)
    assert {axis for value in graph.graph.inputs for axis in map(str, value.shape)} == {"batch", "sequence"}
    # sdpa is one node from opset 23 on; where positions are added to the scores it is none
    assert sum(node.op_type == "Attention" for node in graph.graph) == (0 if family in _NO_ATTENTION else 2)


def assert_forms(forms: Counter[Any], family: str, structure: str, place: int) -> None:
    """Say what 6 layers in each of 2 blocks became: rows alone, or rows and columns that were decided together."""
    assert sum(forms.values()) == 12
    if place == 1:
        # The pivots of up and down: rows have them at up, columns at up too, as ranks are equal.
        assert forms["pivots_out"] == 2 and forms["gather"] + forms["selector"] == 10
    elif structure == "rows":  # down's rows are not at the side that is in order; heads keep unequal numbers
        assert forms["folded"] >= 2 and forms["folded"] + forms["absorbed"] == 12
    elif family in _NO_ATTENTION:
        assert forms == {"folded": 2, "split": 2, "absorbed": 6, "columns": 2}
    else:
        assert forms == {"folded": 8, "split": 2, "sliced": 2}
