"""A form of a layer is added by one object in the `lowerings` of a target: no other file changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import onnx_ir as ir
import pytest

from losparse.errors import LosparseError
from losparse_export import CPU, TARGETS, Plan

from .toys.lowering import Einsum

TARGET = replace(CPU, lowerings=(*CPU.lowerings, Einsum()))


def test_a_toy_lowering_is_planned_written_and_read(export_bert, monkeypatch, tmp_path):
    monkeypatch.setitem(TARGETS, "cpu", TARGET)
    report = export_bert(tmp_path / "out", target=TARGET)  # which compares with PyTorch
    chosen = {name: layer.lowering for name, layer in report.plan.layers.items()}
    axes = {name: layer.spec.axis for name, layer in report.plan.layers.items()}
    assert {name for name, form in chosen.items() if form == "einsum"} == {
        n for n, axis in axes.items() if axis == "out"
    }
    assert report.parity.max_abs <= report.parity.tolerance
    kinds = Counter(node.op_type for node in ir.load(report.folder / "model.onnx").graph)
    assert kinds["Einsum"] == list(chosen.values()).count("einsum") > 0
    plan = Plan.read(report.folder / "plan.json")
    assert plan == report.plan
    again = export_bert(tmp_path / "again", target=TARGET, plan=plan)
    assert again.metadata["fingerprint"] == report.metadata["fingerprint"]


def test_without_it_such_a_plan_is_refused(export_bert, tmp_path):
    report = export_bert(tmp_path / "out", target=TARGET)
    with pytest.raises(LosparseError, match=r"lowering must be one of constant, dense, .*, got 'einsum'"):
        Plan.read(report.folder / "plan.json")
