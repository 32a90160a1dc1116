"""Checkpoints with compact embedding tables: their rows are the graph's, in every precision and operator set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from losparse import compress_embeddings_
from losparse_export import export_model

from .builders import build_model
from .traces import Traces

WORDS = "bert.embeddings.word_embeddings"


def _compact(**options: Any) -> Any:
    model = build_model("bert", seed=1)
    compress_embeddings_(model, **options)
    return model


def _weights(folder: Path) -> dict[str, Any]:
    (file,) = folder.rglob("*.onnx")
    return {weight.name: weight for weight in onnx.load(file).graph.initializer}


@pytest.mark.parametrize("opset", [23, 18])
def test_rows_in_8_bits_are_the_graphs(opset: int, traces: Traces, tmp_path: Path) -> None:
    model = _compact()
    report = export_model(model, tmp_path / "out", opset=opset, tracer=traces)
    # The same numbers as in PyTorch are added and multiplied in fp32.
    assert report.parity.max_abs < 1e-5
    weights = _weights(tmp_path / "out")
    rows = weights[f"{WORDS}.rows"]
    assert rows.data_type == TensorProto.INT8 and f"{WORDS}.weight" not in weights
    assert np.array_equal(onnx.numpy_helper.to_array(rows), model.get_submodule(WORDS).rows.numpy())


def test_a_lower_rank_in_8_bits_beside_layers_in_8_bits(traces: Traces, tmp_path: Path) -> None:
    model = _compact(rank=0.5)
    report = export_model(model, tmp_path / "out", precision="int8", tracer=traces)
    weights = _weights(tmp_path / "out")
    width = model.config.hidden_size
    assert list(weights[f"{WORDS}.rows"].dims) == [model.config.vocab_size, width // 2]
    large = [w.name for w in weights.values() if w.data_type == TensorProto.FLOAT and model.config.vocab_size in w.dims]
    assert large in ([], [f"{WORDS}.scale"]), "no table of floats is made of it"
    assert report.metadata["source"]["compressed"]
