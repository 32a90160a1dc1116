"""What onnxruntime takes otherwise than torch means it: masks of one row, squeezes without axes, Falcon's attention."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from losparse_export import TaskModel, trace_model
from losparse_export.passes import NameSqueezedAxesPass, WidenMasksPass
from losparse_export.target import prepare_model
from losparse_runtime.contract.task import TASKS

from .builders import run_graph

B, H, S, D = 2, 3, 5, 4


def attention_graph(mask_axes: list[int | str], *, nodes: int = 2) -> ir.Model:
    """Return blocks of attention (batch, heads, sequence, 4) that share a mask."""

    def value(name: str, dtype: ir.DataType, axes: list[int | str]) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(axes))

    ids = value("input_ids", ir.DataType.INT64, ["batch", "sequence"])
    mask = value("mask", ir.DataType.FLOAT, mask_axes)
    x = value("x", ir.DataType.FLOAT, ["batch", H, "sequence", D])
    blocks, last = [], x
    for number in range(nodes):
        block = ir.node("Attention", [last, last, last, mask], {"scale": 0.5})
        last = block.outputs[0]
        last.name, last.type, last.shape = f"y{number}", x.type, ir.Shape(list(x.shape or ()))
        blocks.append(block)
    graph = ir.Graph([ids, x, mask], [last], nodes=blocks, opset_imports={"": 23}, name="attention")
    return ir.Model(graph, ir_version=11)


def reference(x: np.ndarray, mask: np.ndarray, nodes: int = 2) -> np.ndarray:
    for _ in range(nodes):
        scores = x @ x.swapaxes(-1, -2) * 0.5 + mask
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        x = weights / weights.sum(-1, keepdims=True) @ x
    return x


@pytest.mark.parametrize(("axes", "shape"), [(["batch", 1, 1, "sequence"], (B, 1, 1, S)), ([1, "sequence"], (1, S))])
def test_a_mask_of_one_row_serves_every_query(axes, shape):
    random = np.random.default_rng(0)
    x = random.normal(size=(B, H, S, D)).astype(np.float32)
    mask = np.where(random.random(shape) < 0.4, -1e9, 0).astype(np.float32)
    mask[..., 0] = 0  # no row without any token
    feeds = {"input_ids": np.ones((B, S), np.int64), "x": x, "mask": mask}
    graph = attention_graph(axes)
    with pytest.raises(Exception, match="inconsistent q_sequence_length"):
        run_graph(graph, feeds)
    assert WidenMasksPass()(graph).modified
    assert [node.op_type for node in graph.graph].count("Expand") == 1  # one for both blocks
    # rounding of a softmax and two products of a few terms is near 1e-7
    np.testing.assert_allclose(run_graph(graph, feeds)[0], reference(x, mask), rtol=0, atol=1e-5)
    assert not WidenMasksPass()(graph).modified


def test_a_mask_with_a_row_for_every_query_stays():
    graph = attention_graph(["batch", 1, "sequence", "sequence"])
    assert not WidenMasksPass()(graph).modified


def test_it_is_part_of_the_way():
    graph = prepare_model(attention_graph(["batch", 1, 1, "sequence"], nodes=1))
    assert [node.op_type for node in graph.graph].count("Expand") == 1


def test_attention_that_torch_cannot_write_with_the_new_operator_has_the_older_set(caplog):
    """Falcon's queries share one key, which torch 2.13 translates for opset 18 alone."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    config = transformers.FalconConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = transformers.FalconModel(config).eval()
    with caplog.at_level(logging.WARNING, logger="losparse_export"):
        graph = trace_model(TaskModel(model, TASKS["feature-extraction"]))
    assert (graph.graph.opset_imports[""], graph.ir_version) == (18, 10)
    message = r"FalconModel cannot be written with opset 23, and has opset 18: Error when translating node %scaled_dot"
    assert message in caplog.text and "\n" not in caplog.records[-1].getMessage()


def test_a_squeeze_keeps_the_axis_of_the_texts():
    """torch drops every axis of 1, and the graph dropped that of the texts too where there is one text."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 1, 3, 1]))
    node = ir.node("Squeeze", [x])
    node.outputs[0].name, node.outputs[0].type = "y", x.type
    graph = ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 23}, name="squeeze"), ir_version=11)
    assert run_graph(graph, {"x": np.ones((1, 1, 3, 1), np.float32)})[0].shape == (3,)
    assert NameSqueezedAxesPass()(graph).modified and not NameSqueezedAxesPass()(graph).modified
    for texts in (1, 2):
        assert run_graph(graph, {"x": np.ones((texts, 1, 3, 1), np.float32)})[0].shape == (texts, 3)
