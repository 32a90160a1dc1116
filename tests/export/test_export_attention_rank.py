"""Attention on as many dimensions as are kept, plus the rank: where it fires, where it refuses, the same numbers.

Tolerance 2e-5: outputs of magnitude 3 at most; scores are sums of a few dozen products, taken in another order and in
double precision where weights are merged. A wrong scale or a lost bias is off by 0.01 and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import BertConfig, BertModel

from losparse import LoSparse
from losparse.random_factors import random_factors_
from losparse_export import TaskModel, plan_model, trace_model
from losparse_export.passes import fold_model
from losparse_export.planning.lower import lower_model
from losparse_export.target import prepare_model
from losparse_runtime.contract.task import TASKS

from .blocks import finish_model
from .builders import run_graph

ATOL = 2e-5
HEADS, WIDTH = 4, 16  # heads of 16 dimensions


def model_of(low_rank: float, keep: float, *, bias: bool = True) -> BertModel:
    torch.manual_seed(0)
    hidden = HEADS * WIDTH
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=96, vocab_size=50
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    random_factors_(model, LoSparse(keep=keep, low_rank=low_rank, structure="foldable", multiple=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # biases of queries and keys matter here, so they are not small
                parameter.normal_(0, 0.5 if bias else 0.0)
            elif name.endswith((".u", ".v", ".sparse")):
                parameter.mul_(2.0)  # scores far from uniform
    return model


def attention(graph: ir.Model) -> ir.Node:
    return next(node for node in graph.graph if node.op_type == "Attention")


def widths(graph: ir.Model) -> list[int]:
    return [int(value.shape[-1]) // HEADS for value in attention(graph).inputs[:3]]


def finished(model: Any) -> ir.Model:
    graph = prepare_model(trace_model(TaskModel(model, TASKS["feature-extraction"])))
    folds = fold_model(graph)
    plan = plan_model(graph, folds=folds)
    choices = {name: "folded" for name, layer in plan.layers.items() if layer.spec.kept and layer.spec.axis == "out"}
    choices |= {name: "low_rank" for name, layer in plan.layers.items() if layer.spec.rank and not layer.spec.kept}
    choices |= {n: "sliced" for n, layer in plan.layers.items() if layer.spec.kept and "attention.output" in n}
    return finish_model(lower_model(graph, plan.choose(choices)))


def assert_same(model: Any, graph: ir.Model) -> None:
    ids = torch.arange(14).reshape(2, 7) % 50
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0  # masked keys: what is dropped from the scores must not depend on them
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "token_type_ids": np.zeros((2, 7), np.int64)}
    (actual,) = run_graph(graph, feeds)
    real = mask.numpy().astype(bool)
    np.testing.assert_allclose(actual[real], expected[real], rtol=0, atol=ATOL)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("low_rank", "keep"), [(0.06, 0.2), (0.12, 0.12)], ids=["kept and rank", "rank alone"])
def test_heads_become_narrow(low_rank, keep, bias):
    model = model_of(low_rank, keep, bias=bias)
    graph = finished(model)
    layers = model.encoder.layer[0].attention.self
    kept = layers.query.kept_count // HEADS
    # rank 2 of 64 x 64 at share 0.06, rank 4 at 0.12
    assert layers.key.rank == (2 if low_rank == 0.06 else 4)
    assert widths(graph)[:2] == [kept + layers.key.rank] * 2
    assert widths(graph)[2] == layers.value.kept_count // HEADS + layers.value.rank
    assert attention(graph).attributes["scale"].as_float() == pytest.approx(WIDTH**-0.5)
    assert_same(model, graph)


def test_wide_ranks_stay_as_they_are():
    model = model_of(0.45, 0.5)  # rank 15 of heads of 16: nothing to win
    graph = finished(model)
    assert widths(graph) == [WIDTH] * 3
    assert_same(model, graph)


def test_dense_attention_stays_as_it_is():
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=96, vocab_size=50
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    graph = finished(model)
    assert widths(graph) == [WIDTH] * 3
    assert_same(model, graph)
