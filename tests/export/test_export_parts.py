"""What is put side by side and taken apart again is read directly, whichever way a model takes it apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from losparse import compress_
from losparse.methods import SVD, LoSparse, StructuredPruning
from losparse.random_factors import random_factors_
from losparse_export import export_model
from losparse_export.passes import ReadPartsPass

from .builders import build_model, run_graph

PARTS = "float[b, s, 12] q, float[b, s, 12] k, float[b, s, 12] v"
NUMBERS = "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}"
# Inputs, what is done to them, outputs, and how many nodes of each kind are left.
CASES: dict[str, tuple[str, str, str, dict[str, int]]] = {
    "one after another, as ModernBERT": (
        PARTS,
        """
        all = Concat <axis = -1> (q, k, v)
        shape = Constant <value = int64[5] {0, 0, 3, 2, 6}> ()
        view = Reshape (all, shape)
        minus3 = Constant <value = int64[1] {-3}> ()
        q1 = Slice (view, zero, one, minus3)
        k1 = Slice (view, one, two, minus3)
        v1 = Slice (view, two, three, minus3)
        q2 = Squeeze (q1, minus3)
        k2 = Squeeze (k1, minus3)
        v2 = Squeeze (v1, minus3)
        x = Transpose <perm = [0, 2, 1, 3]> (q2)
        y = Transpose <perm = [0, 2, 3, 1]> (k2)
        z = Transpose <perm = [0, 2, 1, 3]> (v2)
        """,
        "float[b, 2, s, 6] x, float[b, 2, 6, s] y, float[b, 2, s, 6] z",
        {"Reshape": 3, "Transpose": 3},
    ),
    "head by head, turned before, as GPT-NeoX": (
        PARTS,
        """
        heads = Constant <value = int64[4] {0, 0, 2, 6}> ()
        q1 = Reshape (q, heads)
        k1 = Reshape (k, heads)
        v1 = Reshape (v, heads)
        by_heads = Concat <axis = -1> (q1, k1, v1)
        whole = Constant <value = int64[3] {0, 0, 36}> ()
        all = Reshape (by_heads, whole)
        apart = Constant <value = int64[4] {0, 0, 2, 18}> ()
        view = Reshape (all, apart)
        turned = Transpose <perm = [0, 2, 1, 3]> (view)
        x, y, z = Split <axis = -1, num_outputs = 3> (turned)
        """,
        "float[b, 2, s, 6] x, float[b, 2, s, 6] y, float[b, 2, s, 6] z",
        {"Reshape": 3, "Transpose": 3},
    ),
    "head by head, picked by number, as Bloom": (
        PARTS,
        """
        heads = Constant <value = int64[4] {0, 0, 2, 6}> ()
        q1 = Reshape (q, heads)
        k1 = Reshape (k, heads)
        v1 = Reshape (v, heads)
        by_heads = Concat <axis = -1> (q1, k1, v1)
        apart = Constant <value = int64[5] {0, 0, 2, 3, 6}> ()
        view = Reshape (by_heads, apart)
        n0 = Constant <value_int = 0> ()
        n1 = Constant <value_int = 1> ()
        x = Gather <axis = 3> (view, n0)
        y = Gather <axis = -2> (view, n1)
        z = Gather <axis = 3> (view, two)
        """,
        "float[b, s, 2, 6] x, float[b, s, 2, 6] y, float[b, s, 2, 1, 6] z",
        {"Reshape": 3},
    ),
    "of unequal sizes, as Phi-3": (
        "float[b, s, 12] q, float[b, s, 4] k, float[b, s, 4] v",
        """
        all = Concat <axis = 2> (q, k, v)
        sizes = Constant <value = int64[3] {12, 4, 4}> ()
        x, y, z = Split <axis = 2> (all, sizes)
        """,
        "float[b, s, 12] x, float[b, s, 4] y, float[b, s, 4] z",
        {"Identity": 3},
    ),
    "a part beside what is read of several": (
        PARTS,
        """
        all = Concat <axis = -1> (q, k, v)
        sizes = Constant <value = int64[2] {12, 24}> ()
        x, y = Split <axis = -1> (all, sizes)
        """,
        "float[b, s, 12] x, float[b, s, 24] y",
        {"Identity": 1, "Concat": 1, "Split": 1},
    ),
    "rows of several parts": (
        PARTS,
        """
        all = Concat <axis = -1> (q, k, v)
        shape = Constant <value = int64[4] {0, 0, 12, 3}> ()
        view = Reshape (all, shape)
        x, y, z = Split <axis = -1, num_outputs = 3> (view)
        """,
        "float[b, s, 12, 1] x, float[b, s, 12, 1] y, float[b, s, 12, 1] z",
        {"Concat": 1, "Reshape": 1, "Split": 1},
    ),
    "a part in another order": (
        PARTS,
        """
        all = Concat <axis = -1> (q, k, v)
        shape = Constant <value = int64[5] {0, 0, 3, 2, 6}> ()
        view = Reshape (all, shape)
        n0 = Constant <value_int = 0> ()
        first = Gather <axis = 2> (view, n0)
        x = Transpose <perm = [0, 1, 3, 2]> (first)
        """,
        "float[b, s, 6, 2] x",
        {"Reshape": 1, "Transpose": 1},
    ),
    "tokens and features mixed": (
        PARTS,
        """
        all = Concat <axis = -1> (q, k, v)
        shape = Constant <value = int64[2] {-1, 12}> ()
        x = Reshape (all, shape)
        """,
        "float[n, 12] x",
        {"Concat": 1, "Reshape": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_read(name: str) -> None:
    inputs, body, outputs, left = CASES[name]
    head = f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => ({outputs}) <{NUMBERS}>'
    parsed = onnx.parser.parse_model(f"{head} {{ {body} }}")
    proto = onnx.shape_inference.infer_shapes(parsed, data_prop=True)
    before, model = ir.from_proto(proto), ir.from_proto(proto)
    for each in (before, model):
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(each)
    ReadPartsPass()(model)
    common.RemoveUnusedNodesPass()(model)
    assert Counter(node.op_type for node in model.graph) == left
    random = np.random.default_rng(0)
    sizes = {value.name: int(value.shape[2]) for value in before.graph.inputs}
    feeds = {name: random.normal(size=(2, 5, size)).astype(np.float32) for name, size in sizes.items() if name}
    for expected, got in zip(run_graph(before, feeds), run_graph(model, feeds), strict=True):
        np.testing.assert_array_equal(got, expected)


METHODS = [
    LoSparse(keep=0.2, low_rank=0.05, structure="foldable", multiple=4),
    LoSparse(keep=0.3),  # narrow
    StructuredPruning(keep=0.2, structure="rows"),
]


@pytest.mark.parametrize("method", METHODS, ids=["foldable", "narrow", "rows"])
def test_modernbert(method: LoSparse, tmp_path: Path) -> None:
    """Values, gate and up fold as in a BERT; queries and keys are rotated."""
    model = build_model("modernbert", factored=False, seed=3, hidden_size=64, num_attention_heads=4)
    random_factors_(model, method, seed=3)
    report = export_model(model, tmp_path / "out")
    assert report.parity.max_abs <= report.parity.tolerance
    made = {fold.writers: fold.readers for fold in report.plan.folds if fold.refused is None}
    block = "model.layers.1"
    assert made.pop((f"{block}.attn.Wqkv.v",)) == (f"{block}.attn.Wo",)
    assert made.pop((f"{block}.mlp.Wi.gate", f"{block}.mlp.Wi.up")) == (f"{block}.mlp.Wo",)
    graph = ir.load(report.folder / "model.onnx").graph
    joined = [node for node in graph if node.op_type == "Concat" and node.outputs[0].dtype == ir.DataType.FLOAT]
    assert not joined or method.structure == "rows", "nothing is put side by side"


def test_svd_of_parts_and_what_stays_dense(tmp_path: Path) -> None:
    model = build_model("modernbert", factored=False)
    compress_(model, SVD(keep=0.4), ignore=["*.Wqkv.k", "*.0.mlp.Wi.up"])
    report = export_model(model, tmp_path / "out")
    assert report.parity.max_abs <= report.parity.tolerance
    assert "model.layers.0.attn.Wqkv.q" in report.plan.layers and "model.layers.0.attn.Wqkv.k" not in report.plan.layers
