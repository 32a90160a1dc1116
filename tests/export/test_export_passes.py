"""Equal weights are stored once, and every name says where its thing comes from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from losparse_export.graph.marks import SCOPE
from losparse_export.graph.naming import module_of_path, scope_path
from losparse_export.passes import NamePass, ShareWeightsPass

from .blocks import finish_model
from .builders import run_graph

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(40, 30)).astype(np.float32)  # 1200 elements: above the threshold of the pass


def graph_of(weights: dict[str, np.ndarray]) -> ir.Model:
    """x (n, rows) -> one product per weight, each an output."""
    rows = next(iter(weights.values())).shape[0]
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", rows]))
    tape = ir.tape.Tape()
    outputs = []
    for index, (name, array) in enumerate(weights.items()):
        y = tape.op(
            "MatMul", [x, tape.initializer(ir.tensor(array, name=name))], metadata_props={SCOPE: f"layer.{index}"}
        )
        y.name, y.type = f"y{index}", ir.TensorType(ir.DataType.FLOAT)
        outputs.append(y)
    graph = ir.Graph([x], outputs, nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=11)


def assert_unchanged_after(model: ir.Model, weights: dict[str, np.ndarray]) -> None:
    x = RANDOM.normal(size=(3, next(iter(weights.values())).shape[0])).astype(np.float32)
    for actual, weight in zip(run_graph(model, {"x": x}), weights.values(), strict=True):
        # 40 terms of magnitude 1: rounding of 1e-6
        np.testing.assert_allclose(actual, x @ weight, rtol=0, atol=1e-5)


SQUARE = RANDOM.normal(size=(40, 40)).astype(np.float32)
SYMMETRIC = SQUARE + SQUARE.T


@pytest.mark.parametrize(
    ("weights", "kept", "transposes"),
    [
        ({"a.w": TABLE, "b.w": TABLE.copy()}, {"a.w"}, 0),
        ({"a.w": SQUARE, "b.w": np.ascontiguousarray(SQUARE.T)}, {"a.w"}, 1),
        ({"a.w": SQUARE, "b.w": SQUARE.T}, {"a.w"}, 1),  # a view, as constant folding leaves them
        ({"a.w": SYMMETRIC, "b.w": SYMMETRIC.copy()}, {"a.w"}, 0),
        ({"a.w": SQUARE, "b.w": SQUARE.T, "c.w": SQUARE.T.copy()}, {"a.w"}, 2),
        ({"a.w": SQUARE[:8, :8], "b.w": SQUARE[:8, :8].T}, {"a.w", "b.w"}, 0),  # small: a node costs more
        ({"a.w": TABLE, "b.w": TABLE + 1}, {"a.w", "b.w"}, 0),
        ({"a.w": TABLE, "b.w": np.zeros((40, 30), np.float32)}, {"a.w", "b.w"}, 0),
    ],
)
def test_share_weights(weights, kept, transposes):
    model = ShareWeightsPass()(graph_of(weights)).model
    assert set(model.graph.initializers) == kept
    assert sum(node.op_type == "Transpose" for node in model.graph) == transposes
    assert_unchanged_after(model, weights)


def test_share_weights_of_tied_embedding_and_head():
    """A table that is looked up and, transposed, multiplied by: the tied language-model head."""
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["n"]))
    tape = ir.tape.Tape()
    table, head = (tape.initializer(ir.tensor(w, name=n)) for n, w in (("table.w", TABLE), ("val_9", TABLE.T.copy())))
    y = tape.op("MatMul", [tape.op("Gather", [table, ids]), head], metadata_props={SCOPE: "lm_head"})
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([ids], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 23}, name="g")
    model = finish_model(ir.Model(graph, ir_version=11))
    assert list(model.graph.initializers) == ["table.w"]
    (actual,) = run_graph(model, {"ids": np.array([3, 5])})
    np.testing.assert_allclose(actual, TABLE[[3, 5]] @ TABLE.T, rtol=0, atol=1e-5)  # sums of 30 terms


def test_types_and_shapes_tell_equal_bytes_apart():
    zeros = np.zeros(4, np.float32)
    tape = ir.tape.Tape()
    values = [
        tape.initializer(ir.tensor(a, name=f"c.{i}"))
        for i, a in enumerate([zeros, zeros.reshape(2, 2), zeros.view(np.int32)])
    ]
    outputs = [tape.op("Identity", [value]) for value in values]
    graph = ir.Graph([], outputs, nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 23}, name="g")
    assert not ShareWeightsPass()(ir.Model(graph, ir_version=11)).modified
    assert len(graph.initializers) == 3


def test_names():
    model = graph_of({"layer.0.w": TABLE, "val_3": TABLE * 2})
    x = model.graph.inputs[0]
    extra = ir.node(
        "Add", [x, ir.Value(name="val_4", const_value=ir.tensor(np.float32(1)))], metadata_props={SCOPE: ""}
    )
    model.graph.append(extra)
    model.graph.register_initializer(extra.inputs[1])
    NamePass()(model)
    assert [node.name for node in model.graph] == ["/layer.0/MatMul", "/layer.1/MatMul", "/Add"]
    assert list(model.graph.initializers) == ["layer.0.w", "layer.1.weight_t", "/Add_input_1"]
    assert [value.name for value in model.graph.outputs] == ["y0", "y1"]
    assert extra.outputs[0].name == "/Add_output_0"


def test_names_are_counted_per_module_and_type():
    weights = {f"w{i}.w": TABLE + i for i in range(3)}
    model = graph_of(weights)
    for node in model.graph:
        node.metadata_props[SCOPE] = "a"
    NamePass()(model)
    assert [node.name for node in model.graph] == ["/a/MatMul", "/a/MatMul_1", "/a/MatMul_2"]


@pytest.mark.parametrize("module", ["", "pooler", "bert.encoder.layer.0.attention.self.query", "layers.0.1.proj"])
def test_names_lead_back_to_the_module(module):
    assert module_of_path(f"{scope_path(module)}/MatMul_1") == module


def test_finish_drops_what_is_unused():
    model = graph_of({"a.w": TABLE, "b.w": TABLE * 2})
    del model.graph.outputs[1]
    finish_model(model)
    assert [node.name for node in model.graph] == ["/layer.0/MatMul"]
    assert list(model.graph.initializers) == ["a.w"]
    assert all(not node.metadata_props for node in model.graph)
