"""Layers that share a right factor: read from the trace, multiplied by it once, exported with the same outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from losparse import ROM, compress_, inspect_folder
from losparse.layers.joint import split
from losparse.models.report import report as stored_by
from losparse_export import Plan, TaskModel, trace_model
from losparse_export.planning.choose import plan_model
from losparse_runtime.contract.task import TASKS

from .blocks import Blocks, assert_equal_outputs, dense_outputs, feeds_for, finish_model, lowered_to
from .builders import build_model, make_layer

ATOL = 1e-5  # rounding is near 1e-6, a row in another's place is off by 0.01 and more


def test_a_shared_factor_is_multiplied_once():
    torch.manual_seed(0)
    parts = split(make_layer(24, 6, rank=3, kept=0), [8, 8, 8])
    b = Blocks()
    x = b.input(6)
    model = b.model(*(b.layer(x, part, name) for part, name in zip(parts, "qkv", strict=True)))
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    lowered = finish_model(lowered_to(model, dict.fromkeys("qkv", "low_rank")))
    assert_equal_outputs(lowered, feeds, expected, ATOL)
    products = [node for node in lowered.graph if node.op_type in ("MatMul", "Gemm")]
    assert len(products) == 4  # v once, and every u
    assert [value.shape[-1] for value in lowered.graph.initializers.values()].count(3) == 1


@pytest.fixture(scope="module")
def joint() -> tuple[Any, Any]:
    """A BERT whose query, key and value share a factor stored by pivots, and its trace."""
    model = build_model("bert", factored=False, seed=1)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(5, 90, (8, 12), generator=generator),
        "attention_mask": torch.ones(8, 12).long(),
    }
    compress_(model, ROM(keep=0.6, joint=True), [batch])
    return model, trace_model(TaskModel(model, TASKS["text-classification"]))


def test_the_plan_says_what_is_shared_and_may_be_given_back(joint):
    plan = plan_model(joint[1].clone())
    shared = [name for name, layer in plan.layers.items() if layer.spec.shares_v]
    assert len(shared) == 4
    assert Plan.from_dict(plan.to_dict(), "plan") == plan


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exported_with_the_same_outputs(joint, precision, export_traced, tmp_path):
    model, trace = joint
    report = export_traced(trace, model, tmp_path / "out", precision=precision)
    assert report.parity.max_abs <= report.parity.tolerance
    assert precision != "fp32" or report.parity.max_abs < ATOL
    contents = inspect_folder(tmp_path / "out")
    assert sum(layer.parameters for layer in contents.layers) == stored_by(model).parameters
