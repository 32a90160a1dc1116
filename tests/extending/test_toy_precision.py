"""A precision is added by one object in `PRECISION_TABLE`: no other file changes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from losparse_export import PRECISION_TABLE, Precision
from losparse_export.precision.base import Conversion
from losparse_runtime import Session


def to_bfloat(model: ir.Model, conversion: Conversion) -> ir.Model:
    """Round the weights of the chosen products to the 8 bits of bfloat16; a Gemm is what tells that they are."""
    rounded = model.clone()
    for node in rounded.graph:
        weight = node.inputs[1] if node.name in conversion.nodes else None
        if weight is not None and weight.const_value is not None:
            bits = weight.const_value.numpy().copy().view(np.uint32)
            weight.const_value = ir.tensor(((bits + 0x8000) & 0xFFFF0000).view(np.float32), name=weight.name)
            node.op_type = "Gemm"
    return rounded


# 8 bits are 0.4 % a weight; a model of two layers multiplies a dozen of them in a row.
TOY = Precision(
    "weights-8",
    "a test: weights of 8 bits",
    0.1,
    0.99,
    convert=to_bfloat,
    planned="int8",
    marked="all",
    mixes_texts=True,
)


def test_a_toy_precision_is_planned_marked_made_and_judged(export_bert, monkeypatch, tmp_path):
    monkeypatch.setitem(PRECISION_TABLE, TOY.name, TOY)
    report = export_bert(tmp_path / "out", precision="weights-8")
    assert report.plan.precision == "int8" and 1e-6 < report.parity.max_abs <= report.parity.tolerance
    assert report.metadata["precision"] == "weights-8" and "weight_bits" not in report.metadata
    assert (metadata := Session(tmp_path / "out", threads=1).metadata).precision == "weights-8"
    assert metadata.variant.mixes_texts  # so that a session that is batch_invariant runs texts one by one
