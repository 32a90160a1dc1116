"""The passes that make the graph around the layers cheap: where they fire, where they refuse, and the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from losparse_export.passes import AttentionLayoutPass, FlattenTokensPass, RotaryPass

from .builders import run_graph

RANDOM = np.random.default_rng(0)
BATCH, SEQUENCE = ir.SymbolicDim("batch"), ir.SymbolicDim("sequence")
FLOAT = ir.TensorType(ir.DataType.FLOAT)

# Two orders of the same fp32 sums of at most 64 products of O(1) numbers.
TOLERANCE = {"atol": 2e-6, "rtol": 1e-5}


class Builder:
    """Writes a graph over token ids, with the shapes a trace would give."""

    def __init__(self, opset: int = 23) -> None:
        self.opset = opset
        self.ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([BATCH, SEQUENCE]))
        self.tape = ir.tape.Tape()
        self.count = 0

    def constant(self, array: np.ndarray) -> ir.Value:
        self.count += 1
        return self.tape.initializer(ir.tensor(array, name=f"constant_{self.count}"))

    def weight(self, *shape: int) -> ir.Value:
        return self.constant(RANDOM.normal(size=shape).astype(np.float32))

    def op(self, op_type: str, *inputs: ir.Value | None, shape: list, **attributes) -> ir.Value:
        value = self.tape.op(op_type, inputs, attributes)
        value.type, value.shape = FLOAT, ir.Shape(shape)
        return value

    def tokens(self, width: int) -> ir.Value:
        return self.op("Gather", self.weight(10, width), self.ids, shape=[BATCH, SEQUENCE, width])

    def model(self, *outputs: ir.Value) -> ir.Model:
        for index, output in enumerate(outputs):
            output.name = f"y{index}"
        graph = ir.Graph(
            [self.ids],
            outputs,
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": self.opset},
            name="g",
        )
        return ir.Model(graph, ir_version=11)


def feed_forward(b: Builder) -> ir.Model:
    x = b.tokens(8)
    up = b.op("MatMul", x, b.weight(8, 16), shape=[BATCH, SEQUENCE, 16])
    up = b.op("Gelu", b.op("Add", up, b.weight(16), shape=[BATCH, SEQUENCE, 16]), shape=[BATCH, SEQUENCE, 16])
    down = b.op("MatMul", up, b.weight(16, 8), shape=[BATCH, SEQUENCE, 8])
    added = b.op("Add", down, x, shape=[BATCH, SEQUENCE, 8])
    normed = b.op("LayerNormalization", added, b.weight(8), b.weight(8), shape=[BATCH, SEQUENCE, 8], axis=-1)
    return b.model(normed)


def reads_one_token(b: Builder) -> ir.Model:
    y = b.op("MatMul", b.tokens(8), b.weight(8, 8), shape=[BATCH, SEQUENCE, 8])
    first = b.op("Gather", y, b.constant(np.array(0)), shape=[BATCH, 8], axis=1)
    return b.model(y, first)


def constant_on_the_left(b: Builder) -> ir.Model:
    y = b.op("MatMul", b.tokens(8), b.weight(8, 8), shape=[BATCH, SEQUENCE, 8])
    return b.model(b.op("Sub", b.weight(8), y, shape=[BATCH, SEQUENCE, 8]))


@pytest.mark.parametrize("build", [feed_forward, reads_one_token, constant_on_the_left])
def test_flattening_keeps_the_numbers(build: Callable[[Builder], ir.Model]):
    model = build(Builder())
    feeds = {"input_ids": np.array([[1, 2, 3, 0, 5], [9, 8, 7, 6, 4]])}
    before = run_graph(model, feeds)
    assert FlattenTokensPass()(model).modified
    after = run_graph(model, feeds)
    assert [value.name for value in model.graph.outputs] == [f"y{i}" for i in range(len(after))]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, **TOLERANCE)


def test_a_feed_forward_block_is_flattened_once_and_restored_once():
    model = feed_forward(Builder())
    FlattenTokensPass()(model)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["Reshape"] == 2
    products = [node for node in model.graph if node.op_type == "MatMul"]
    assert [len(node.outputs[0].shape) for node in products] == [2, 2]


def batched_product(b: Builder) -> ir.Model:
    return b.model(b.op("MatMul", b.tokens(8), b.weight(1, 8, 8), shape=[BATCH, SEQUENCE, 8]))


def no_product(b: Builder) -> ir.Model:
    x = b.tokens(8)
    return b.model(b.op("Add", x, b.weight(8), shape=[BATCH, SEQUENCE, 8]))


def other_rows(b: Builder) -> ir.Model:
    table = b.op("Gather", b.weight(10, 8), b.constant(np.arange(4)[None]), shape=[1, 4, 8])
    return b.model(b.op("MatMul", table, b.weight(8, 8), shape=[1, 4, 8]), b.tokens(8))


@pytest.mark.parametrize("build", [batched_product, no_product, other_rows])
def test_flattening_leaves_what_gains_nothing(build: Callable[[Builder], ir.Model]):
    model = build(Builder())
    nodes = [node.op_type for node in model.graph]
    assert not FlattenTokensPass()(model).modified
    assert [node.op_type for node in model.graph] == nodes


def over_tokens(b: Builder) -> ir.Model:
    y = b.op("MatMul", b.tokens(8), b.weight(8, 8), shape=[BATCH, SEQUENCE, 8])
    return b.model(b.op("Softmax", y, shape=[BATCH, SEQUENCE, 8], axis=1))


def positions(b: Builder) -> ir.Model:
    y = b.op("MatMul", b.tokens(8), b.weight(8, 8), shape=[BATCH, SEQUENCE, 8])
    return b.model(b.op("Add", y, b.weight(1, 5, 8), shape=[BATCH, SEQUENCE, 8]))


@pytest.mark.parametrize("build", [over_tokens, positions])
def test_what_mixes_tokens_stays_on_three_axes(build: Callable[[Builder], ir.Model]):
    model = build(Builder())
    feeds = {"input_ids": np.array([[1, 2, 3, 0, 5], [9, 8, 7, 6, 4]])}
    before = run_graph(model, feeds)[0]
    FlattenTokensPass()(model)
    last = model.graph.outputs[0].producer()
    assert last.op_type in ("Softmax", "Add"), "the node itself was not moved"
    np.testing.assert_allclose(run_graph(model, feeds)[0], before, **TOLERANCE)


def attention(b: Builder, *, heads: int = 4, width: int = 8, expose: bool = False, perm=(0, 2, 1, 3)) -> ir.Model:
    hidden = heads * width
    x = b.tokens(hidden)
    split = b.constant(np.array([0, 0, heads, width]))
    parts = []
    for _ in range(3):
        part = b.op("MatMul", x, b.weight(hidden, hidden), shape=[BATCH, SEQUENCE, hidden])
        view = b.op("Reshape", part, split, shape=[BATCH, SEQUENCE, heads, width])
        parts.append(b.op("Transpose", view, shape=[BATCH, heads, SEQUENCE, width], perm=list(perm)))
    y = b.op("Attention", *parts, shape=[BATCH, heads, SEQUENCE, width], scale=0.3)
    joined = b.op("Transpose", y, shape=[BATCH, SEQUENCE, heads, width], perm=list(perm))
    whole = b.op("Reshape", joined, b.constant(np.array([0, 0, hidden])), shape=[BATCH, SEQUENCE, hidden])
    return b.model(whole, *([y] if expose else []))


def test_attention_reads_heads_where_they_lie():
    model = attention(Builder())
    feeds = {"input_ids": np.array([[1, 2, 3], [9, 8, 7]])}
    before = run_graph(model, feeds)[0]
    assert AttentionLayoutPass()(model).modified
    ir.passes.common.RemoveUnusedNodesPass()(model)
    assert not [node for node in model.graph if node.op_type in ("Transpose", "Reshape")]
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert (node.attributes["q_num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()) == (4, 4)
    assert node.attributes["scale"].as_float() == pytest.approx(0.3)
    np.testing.assert_allclose(run_graph(model, feeds)[0], before, **TOLERANCE)


@pytest.mark.parametrize("settings", [{"expose": True}, {"perm": (0, 1, 2, 3), "heads": 1, "width": 8}])
def test_attention_stays_where_the_heads_are_read_apart_or_not_swapped(settings):
    model = attention(Builder(), **settings)
    assert not AttentionLayoutPass()(model).modified


def test_both_passes_together():
    model = attention(Builder())
    feeds = {"input_ids": np.array([[1, 2, 3], [9, 8, 7]])}
    before = run_graph(model, feeds)[0]
    AttentionLayoutPass()(model)
    FlattenTokensPass()(model)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    assert Counter(node.op_type for node in model.graph)["Transpose"] == 0
    np.testing.assert_allclose(run_graph(model, feeds)[0], before, **TOLERANCE)


def rotated(
    b: Builder, *, heads: int = 4, kv_heads: int = 2, width: int = 8, repeat: int = 2, steps: tuple = ("turn",)
) -> ir.Model:
    """Attention over 3 tokens as torch's exporter writes it: cosines of one text, heads repeated on axis `repeat`."""
    x = b.tokens(heads * width)
    angles = b.constant(np.linspace(0, 3, 3 * width // 2, dtype=np.float32).reshape(1, 3, -1))
    parts = []
    for place, count in enumerate((heads, kv_heads, kv_heads)):
        part = b.op("MatMul", x, b.weight(heads * width, count * width), shape=[BATCH, SEQUENCE, count * width])
        split = b.constant(np.array([0, 0, count, width]))
        view = b.op("Reshape", part, split, shape=[BATCH, SEQUENCE, count, width])
        value = b.op("Transpose", view, shape=[BATCH, count, SEQUENCE, width], perm=[0, 2, 1, 3])
        for step in steps if place < 2 else ():
            shape = [BATCH, count, SEQUENCE, width]
            if step == "norm":
                value = b.op("RMSNormalization", value, b.weight(width), shape=shape, axis=-1)
            elif step == "scale":
                value = b.op("Mul", value, b.constant(np.array(0.5, np.float32)), shape=shape)
            else:
                turn = [b.op(kind, angles, shape=[1, 3, width // 2]) for kind in ("Cos", "Sin")]
                value = b.op("RotaryEmbedding", value, *turn, shape=shape, num_heads=count)
        if place > 0 and heads != kv_heads:
            one, sizes = [BATCH, count, SEQUENCE, width], [1, 1, 1, 1, 1]
            one.insert(repeat, 1)
            sizes[repeat] = heads // count
            value = b.op("Unsqueeze", value, b.constant(np.array([repeat])), shape=one)
            many = [*one[:repeat], heads // count, *one[repeat + 1 :]]
            value = b.op("Expand", value, b.constant(np.array(sizes)), shape=many)
            sizes = b.constant(np.array([0, heads, -1, width]))
            value = b.op("Reshape", value, sizes, shape=[BATCH, heads, SEQUENCE, width])
        parts.append(value)
    y = b.op("Attention", *parts, shape=[BATCH, heads, SEQUENCE, width])
    joined = b.op("Transpose", y, shape=[BATCH, SEQUENCE, heads, width], perm=[0, 2, 1, 3])
    whole = b.op("Reshape", joined, b.constant(np.array([0, 0, heads * width])), shape=[BATCH, SEQUENCE, heads * width])
    return b.model(whole)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_rotary_attention_reads_heads_where_they_lie(kv_heads):
    model = rotated(Builder(), kv_heads=kv_heads)
    rows = [[1, 2, 3], [9, 8, 7]]
    alone = [run_graph(model, {"input_ids": np.array([row])})[0] for row in rows]
    assert RotaryPass()(model).modified
    assert not RotaryPass()(model).modified, "what was shared stays as it is"
    assert AttentionLayoutPass()(model).modified
    ir.passes.common.RemoveUnusedNodesPass()(model)
    kinds = Counter(node.op_type for node in model.graph)
    assert (kinds["Cos"], kinds["Sin"], kinds["Expand"], kinds["RotaryEmbedding"]) == (1, 1, 2, 2)
    assert kinds["Transpose"] == kinds["Reshape"] == 0
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert (node.attributes["q_num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()) == (4, kv_heads)
    np.testing.assert_allclose(run_graph(model, {"input_ids": np.array(rows)})[0], np.concatenate(alone), **TOLERANCE)


def test_onnxruntime_refuses_the_cosines_of_one_text_for_two():
    """Why RotaryPass exists; when this fails, it may go."""
    with pytest.raises(Exception, match="cos_cache"):
        run_graph(rotated(Builder()), {"input_ids": np.array([[1, 2, 3], [9, 8, 7]])})


def test_heads_that_are_tiled_are_not_grouped():
    """Repeated in front of the heads, key head i belongs to query heads i, i + 2: another order than the operator's."""
    model = rotated(Builder(), repeat=1)
    alone = run_graph(model, {"input_ids": np.array([[1, 2, 3]])})[0]
    RotaryPass()(model)
    AttentionLayoutPass()(model)
    np.testing.assert_allclose(run_graph(model, {"input_ids": np.array([[1, 2, 3]])})[0], alone, **TOLERANCE)
    assert not [n for n in model.graph if n.op_type == "Attention" and n.attributes.get_int("kv_num_heads", 4) != 4]


@pytest.mark.parametrize(
    ("steps", "reshapes"), [(("scale", "turn"), 0), (("norm", "turn"), 4), (("norm", "scale", "turn", "scale"), 4)]
)
def test_what_is_done_to_every_head_is_done_before_the_transposes_that_disappear(steps, reshapes):
    model = rotated(Builder(), steps=steps)
    rows = [[1, 2, 3], [9, 8, 7]]
    alone = [run_graph(model, {"input_ids": np.array([row])})[0] for row in rows]
    RotaryPass()(model)
    assert AttentionLayoutPass()(model).modified
    ir.passes.common.RemoveUnusedNodesPass()(model)
    kinds = Counter(node.op_type for node in model.graph)
    # A norm works on heads apart: query and key are split for it, and put side by side behind it.
    assert (kinds["Transpose"], kinds["Reshape"]) == (0, reshapes)
    np.testing.assert_allclose(run_graph(model, {"input_ids": np.array(rows)})[0], np.concatenate(alone), **TOLERANCE)


def test_a_norm_of_rotated_heads_keeps_its_transposes():
    model = rotated(Builder(), steps=("turn", "norm"))
    RotaryPass()(model)
    assert not AttentionLayoutPass()(model).modified
