"""A wrong weight is located by its layer's name wherever passes put it: reordered, split, shared, or moved.

Weights have magnitude 0.2, and 0.5 is added to one of them: what a layer returns is then off by 0.1 and more, while the
tolerance is that of the gate, 1e-4. Sums of another order are off by 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import onnx_ir as ir
import pytest

from losparse_export import TaskModel, lower_model, plan_model
from losparse_export.folder.model import save_model
from losparse_export.parity.gate import make_feeds
from losparse_export.parity.lengths import Case
from losparse_export.parity.locate import LayerDifference, first_difference
from losparse_export.passes import ReduceAttentionPass, SharePass, fold_model
from losparse_export.target import prepare_model
from losparse_runtime.contract.task import TASKS

from .blocks import finish_model, prefer

TOLERANCE = 1e-4
LAYERS = "bert.encoder.layer."
Locate = Callable[..., LayerDifference | None]


def change(model: ir.Model, weight: str) -> None:
    value = model.graph.initializers[weight]
    array = value.const_value.numpy().copy()
    array.reshape(-1)[0] += 0.5
    value.const_value = ir.tensor(array, name=weight)


@pytest.fixture
def locate(foldable: Any, foldable_trace: Any, tmp_path: Path) -> Locate:
    """Export with one wrong weight, in forms for layers in order or in the given ones, and compare."""

    def run(weight: str | None, *forms: str, share: bool = False, narrow: bool = False) -> LayerDifference | None:
        graph = prepare_model(foldable_trace.clone())
        fold_model(graph)
        graph = lower_model(graph, prefer(plan_model(graph), *(forms or ("split", "folded", "sliced"))))
        if weight is not None:
            change(graph, weight)
        with mock.patch.object(SharePass, "_pays", lambda *_: share), leave_attention(narrow):
            save_model(finish_model(graph), tmp_path)
        model = TaskModel(foldable, TASKS["text-classification"])
        return first_difference(model, tmp_path, make_feeds(model, Case(2, 7, padded=True)), TOLERANCE)

    return run


def leave_attention(narrow: bool) -> Any:
    """Switch the narrowing of heads off: what query, key and value return is nowhere in a narrowed graph."""
    unchanged = lambda _, model: ir.passes.PassResult(model, False)  # noqa: E731
    return nullcontext() if narrow else mock.patch.object(ReduceAttentionPass, "call", unchanged)


FORMS = [(), ("folded", "dense"), ("dense",), ("pivots_out", "absorbed", "columns"), ("selector",)]


@pytest.mark.parametrize("settings", [{}, {"share": True}, {"narrow": True}])
@pytest.mark.parametrize("forms", FORMS)
def test_right_weights_give_no_difference(locate, forms, settings):
    assert locate(None, *forms, **settings) is None


WEIGHTS = [
    "0.attention.self.query.rows_t",
    "0.attention.self.query.u_t",
    "1.attention.self.key.rows_t",
    "1.attention.self.value.rows_t",
    "1.attention.self.value.v_t",
    "0.attention.output.dense.second_t",
    "0.intermediate.dense.rows_t",
    "1.intermediate.dense.u_t",
    "1.intermediate.dense.rows_t_bias",
    "0.output.dense.columns_t",
    "1.output.dense.v_t",
    "1.output.dense.u_t",
]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_layer_in_order(locate, weight):
    """Query, key and value folded; up and down in two tensors."""
    found = locate(LAYERS + weight)
    assert found is not None and found.layer == LAYERS + weight.rpartition(".")[0]


@pytest.mark.parametrize("weight", ["0.attention.self.query.rows_t", "0.attention.self.value.u_t"])
def test_a_layer_whose_products_are_shared(locate, weight):
    """One product for query, key and value."""
    found = locate(LAYERS + weight, share=True)
    assert found is not None and found.layer == LAYERS + weight.rpartition(".")[0]


@pytest.mark.parametrize("weight", ["0.attention.self.query.rows_t", "1.attention.self.value.u_t"])
def test_a_layer_before_narrowed_attention(locate, weight):
    """The layer's output is not in the graph: what is named is in the attention part of the same block."""
    found = locate(LAYERS + weight, narrow=True)
    assert found is not None and found.layer.startswith(f"{LAYERS}{weight[0]}.attention.")


@pytest.mark.parametrize(
    ("weight", "forms"),
    [
        ("0.attention.self.query.weight_t", ("dense",)),
        ("0.attention.self.query.rows_t", ("absorbed", "dense")),
        ("0.attention.self.key.weight_t", ("dense",)),
        ("1.intermediate.dense.weight_t", ("dense",)),
        ("1.intermediate.dense.combine_t", ("pivots_out", "dense")),
        ("1.intermediate.dense.rows_t", ("folded", "dense")),
    ],
)
def test_reordered_layers_in_other_forms(locate, weight, forms):
    found = locate(LAYERS + weight, *forms)
    assert found is not None and found.layer == LAYERS + weight.rpartition(".")[0]


@pytest.mark.parametrize("forms", [(), ("dense",)])
@pytest.mark.parametrize(
    "weight",
    [
        "0.attention.output.LayerNorm.weight",
        "0.output.LayerNorm.weight",
        "1.output.LayerNorm.weight",
        "1.output.LayerNorm.bias",  # the last one, which no residual follows, so nothing moves into it
    ],
)
def test_a_normalisation_with_a_bias_in_it(locate, weight, forms):
    found = locate(LAYERS + weight, *forms)
    assert found is not None and found.layer == LAYERS + weight.rpartition(".")[0]


@pytest.mark.parametrize("layer", ["0.attention.output.dense", "1.attention.output.dense", "0.output.dense"])
@pytest.mark.parametrize(("form", "weight"), [("sliced", "second_t"), ("selector", "second_t"), ("dense", "weight_t")])
def test_a_layer_whose_bias_was_moved(locate, layer, form, weight):
    found = locate(f"{LAYERS}{layer}.{weight}", form, "dense")
    assert found is not None and found.layer == LAYERS + layer


@pytest.mark.parametrize("layer", ["0.attention.output.dense", "1.output.dense"])
def test_a_moved_bias_that_is_wrong_is_located_near_its_layer(locate, layer):
    """It went into a normalisation's shift, and a constant vector is what is not compared there: the next module says
    it."""
    found = locate(f"{LAYERS}{layer}.bias", "dense")
    assert found is not None and found.layer.startswith(LAYERS + layer.rpartition(".")[0])
