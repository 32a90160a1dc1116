"""Rotary positions, windows and grouped heads: ModernBERT and the decoders that serve as encoders and classifiers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from losparse.methods import LoSparse
from losparse.random_factors import random_factors_
from losparse_export import export_model
from losparse_runtime import Session

from .builders import build_model

FAMILIES = [
    # family, opset, heads of queries and of keys, what the angles are computed for
    ("modernbert", 23, (2, 2), 2),  # the whole text, and windows
    ("llama", 23, (2, 1), 1),
    ("qwen3", 23, (2, 1), 1),
    ("modernbert", 18, None, 2),
]


@pytest.mark.parametrize(("family", "opset", "heads", "angles"), FAMILIES)
def test_family(tmp_path, family, opset, heads, angles):
    model = build_model(family, max_position_embeddings=400)
    report = export_model(model, tmp_path / "out", opset=opset)
    assert report.parity.max_abs <= report.parity.tolerance
    assert {case["batch"] for case in report.parity.cases} > {1}, "one text needs no copies of the cosines"
    graph = ir.load(report.folder / "model.onnx").graph
    kinds = Counter(node.op_type for node in graph)
    if opset == 23:
        found = [node.attributes for node in graph if node.op_type == "Attention"]
        assert [(a["q_num_heads"].as_int(), a["kv_num_heads"].as_int()) for a in found] == [heads, heads]
        assert (kinds["RotaryEmbedding"], kinds["Cos"], kinds["Sin"]) == (4, angles, angles)
    check_long_texts(model, report.folder)


def check_long_texts(model: Any, folder: Path) -> None:
    """Compare at 300 tokens, which is more than the gate tries and many windows."""
    ids = np.random.default_rng(0).integers(3, 100, (3, 300))
    mask = np.ones_like(ids)
    ids[1, 200:] = mask[1, 200:] = 0
    with torch.no_grad():
        expected = model(torch.tensor(ids), torch.tensor(mask))[0].numpy()
    (got,) = Session(folder).run({"input_ids": ids, "attention_mask": mask}).values()
    real = mask.astype(bool) if got.ndim == 3 else slice(None)
    # Outputs of order 1 in fp32, from sums in another order; as the gate allows them to differ.
    np.testing.assert_allclose(got[real], expected[real], atol=1e-4)


# Gate, up and down fold in both blocks, and values with the outputs of ModernBERT's attention; rotated queries and keys
# do not, nor a value that several heads read.
@pytest.mark.parametrize(("family", "folded"), [("llama", 6), ("modernbert", 10)])
def test_losparse(tmp_path, family, folded):
    model = build_model(family, factored=False, seed=2)
    random_factors_(model, LoSparse(keep=0.5, low_rank=0.1, structure="foldable", multiple=4), seed=2)
    report = export_model(model, tmp_path / "out")
    assert report.parity.max_abs <= report.parity.tolerance
    made = [fold for fold in report.plan.folds if fold.refused is None]
    assert sum(len(fold.writers) + len(fold.readers) for fold in made) == folded, made
