"""Operators of newer sets in those of opset 18: each is written, and gives what it gave; what cannot be is refused.

Tolerance 1e-5: numbers of magnitude 3 at most, from the same sums of a few dozen products, where one of them may be
taken in another order. A mask that is not seen, a scale or a sign that is wrong moves them by 0.01 and more.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir import DataType

from losparse.errors import LosparseError
from losparse_export.passes import NamePass, OlderOpsetPass
from losparse_export.precision.apply import apply_precision
from losparse_export.precision.table import warn_of_amx
from losparse_runtime import Session

from .builders import run_graph

ATOL = 1e-5
B, S, T = 11, 13, 17  # texts, queries, keys


def one_node(node: ir.Node, values: dict[str, ir.Value], feeds: dict[str, np.ndarray]) -> ir.Model:
    """Return a graph of one node, with free axes where numbers of texts and tokens stand."""
    names = {B: "batch", S: "queries", T: "keys"}
    for name, value in values.items():
        array = feeds[name]
        value.name, value.type = name, ir.TensorType(DataType.from_numpy(array.dtype))
        value.shape = ir.Shape([names.get(size, size) for size in array.shape])
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(DataType.FLOAT)
    y.shape = ir.Shape([None] * next(iter(feeds.values())).ndim)
    graph = ir.Graph(list(values.values()), [y], nodes=[node], opset_imports={"": 23}, name="node")
    return ir.Model(graph, ir_version=11)


def make(op_type: str, feeds: dict[str, np.ndarray], **attributes: Any) -> ir.Model:
    values = {name: ir.Value() for name in feeds}
    return one_node(ir.node(op_type, list(values.values()), attributes or None), values, feeds)


def assert_same(model: ir.Model, feeds: dict[str, np.ndarray]) -> Counter[str]:
    """See that a graph gives the same numbers in opset 18; returns how many nodes of which kind it has there."""
    (expected,) = run_graph(model, feeds)
    assert OlderOpsetPass(18)(model).modified and not OlderOpsetPass(18)(model).modified
    assert (model.graph.opset_imports[""], model.ir_version) == (18, 10)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (actual,) = run_graph(model, feeds)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ATOL)
    return Counter(node.op_type for node in model.graph)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def seen(*shape: int) -> np.ndarray:
    """Return which keys are seen; every query sees the first."""
    mask = np.random.default_rng(9).random(shape) < 0.6
    mask[..., 0] = True
    return mask


MASKS = {
    "none": None,
    "seen": seen(B, 1, S, T),
    "seen by every head alone": seen(B, 4, S, T),
    "seen in every text": seen(S, T),
    "added": np.where(seen(B, 1, S, T), 0, -1e9).astype(np.float32) + numbers(B, 4, S, T, seed=5),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("heads", "widths"), [((4, 4), (6, 6)), ((4, 4), (8, 3)), ((4, 2), (6, 6)), ((4, 1), (5, 2))])
@pytest.mark.parametrize("together", [True, False])
def test_attention(mask: str, heads: tuple[int, int], widths: tuple[int, int], together: bool) -> None:
    parts = [(S, heads[0], widths[0]), (T, heads[1], widths[0]), (T, heads[1], widths[1])]
    shapes = [(B, s, n * d) if together else (B, n, s, d) for s, n, d in parts]
    feeds = {name: numbers(*shape, seed=i) for i, (name, shape) in enumerate(zip("qkv", shapes, strict=True))}
    if (added := MASKS[mask]) is not None:
        feeds["mask"] = added
    counts = {"q_num_heads": heads[0], "kv_num_heads": heads[1]} if together else {}
    kinds = assert_same(make("Attention", feeds, **counts), feeds)
    assert kinds["MatMul"] == 2 and not kinds["Expand"], "keys that heads share are not copied"


@pytest.mark.parametrize("scale", [None, 0.1])
def test_causal_attention(scale: float | None) -> None:
    feeds = {name: numbers(B, S, 12, seed=i) for i, name in enumerate("qkv")}
    given = {} if scale is None else {"scale": scale}
    assert_same(make("Attention", feeds, q_num_heads=3, kv_num_heads=3, is_causal=1, **given), feeds)
    masked = {**feeds, "mask": seen(B, 1, S, S)}
    kinds = assert_same(make("Attention", masked, q_num_heads=3, kv_num_heads=3, is_causal=1, **given), masked)
    assert kinds["Trilu"] == 1


def test_what_a_mask_adds_is_computed_once_for_all_blocks() -> None:
    feeds = {"x": numbers(B, S, 12), "mask": seen(B, 1, S, S)}
    x, mask = ir.Value(), ir.Value()
    settings = {"q_num_heads": 3, "kv_num_heads": 3, "is_causal": 1}
    first = ir.node("Attention", [x, x, x, mask], settings)
    model = one_node(first, {"x": x, "mask": mask}, feeds)
    y = first.outputs[0]
    y.shape = x.shape
    second = ir.node("Attention", [y, y, y, mask], settings)
    second.outputs[0].name, second.outputs[0].type, second.outputs[0].shape = "z", y.type, x.shape
    model.graph.append(second)
    model.graph.outputs[0] = second.outputs[0]
    kinds = assert_same(model, feeds)
    assert (kinds["Softmax"], kinds["Where"], kinds["Trilu"]) == (2, 1, 1)


@pytest.mark.parametrize("turned", [0, 4])
@pytest.mark.parametrize("together", [True, False])
def test_rotary_positions(turned: int, together: bool) -> None:
    heads, width = 3, 8
    angles = numbers(B, S, (turned or width) // 2, seed=1)
    shape = (B, S, heads * width) if together else (B, heads, S, width)
    feeds = {"x": numbers(*shape), "cos": np.cos(angles), "sin": np.sin(angles)}
    attributes = ({"num_heads": heads} if together else {}) | ({"rotary_embedding_dim": turned} if turned else {})
    assert_same(make("RotaryEmbedding", feeds, **attributes), feeds)


@pytest.mark.parametrize("axis", [-1, 2, 1])
def test_norm_by_the_root_of_mean_squares(axis: int) -> None:
    shape = (B, S, 6)
    feeds = {"x": numbers(*shape), "scale": numbers(*shape[axis:], seed=1)}
    feeds["x"][0, 0] = 0  # what a row of padding may be: epsilon alone is left under the root
    if axis == 1:
        shape = (B, 4, 6)
        feeds = {"x": numbers(*shape), "scale": numbers(4, 6, seed=1)}
    assert_same(make("RMSNormalization", feeds, axis=axis, epsilon=1e-6), feeds)


def test_squares_of_a_norm_stay_in_fp32_in_half_precision() -> None:
    feeds = {"x": 1000 * numbers(B, S, 6), "scale": numbers(6, seed=1)}  # whose squares are beyond 65504
    model = make("RMSNormalization", feeds, axis=-1)
    (expected,) = run_graph(model, feeds)
    OlderOpsetPass(18)(model)
    NamePass()(model)
    half = apply_precision(model, "fp16")
    reads = {node.op_type: node.inputs[0].dtype for node in half.graph if node.op_type != "Cast"}
    inside = ("Pow", "ReduceMean", "Add", "Sqrt", "Div")
    assert reads == {**dict.fromkeys(inside, DataType.FLOAT), "Mul": DataType.FLOAT16}
    (actual,) = run_graph(half, feeds)
    # Numbers of magnitude 3 and less with 11 bits, rounded three times.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    feeds = {"x": 3 * numbers(B, S, 8)}
    assert_same(make("Gelu", feeds, approximate=approximate), feeds)


@pytest.mark.parametrize("axis", [-2, 1])
def test_fourier_transform(axis: int) -> None:
    feeds = {"x": numbers(3, 4, 6, 1)}
    x, place = ir.Value(), ir.Value(name="axis", const_value=ir.tensor(np.array(axis)))
    model = one_node(ir.node("DFT", [x, None, place], {"inverse": 0}), {"x": x}, feeds)
    model.graph.register_initializer(place)
    assert assert_same(model, feeds) == {"DFT": 1}


REFUSED = [
    ("Attention", {"q_num_heads": 3, "kv_num_heads": 3, "softcap": 30.0}),
    ("RotaryEmbedding", {"num_heads": 3, "interleaved": 1}),
    ("TensorScatter", {}),  # of opset 24
    ("GroupNormalization", {"num_groups": 3}),  # whose scale had another length in opset 18
]


@pytest.mark.parametrize(("op_type", "attributes"), REFUSED)
def test_what_cannot_be_written_is_refused(op_type: str, attributes: dict[str, Any]) -> None:
    feeds = {name: numbers(B, S, 12) for name in "qkv"}
    message = (
        rf"^this model needs {op_type}, which opset 18 has not in this form; leave out opset= \(--opset\) for opset 23$"
    )
    with pytest.raises(LosparseError, match=message):
        OlderOpsetPass(18)(make(op_type, feeds, **attributes))


def test_the_newest_set_stays_as_it_is() -> None:
    model = make("Gelu", {"x": numbers(B, S, 8)})
    assert not OlderOpsetPass(23)(model).modified
    assert [node.op_type for node in model.graph] == ["Gelu"]


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_a_model_has_the_same_plan_and_the_same_numbers(export_foldable: Any, tmp_path: Any, precision: str) -> None:
    """Everything folds as in the newer set: both are written from one graph."""
    new, old = (export_foldable(tmp_path / str(n), opset=n, precision=precision) for n in (23, 18))
    assert old.plan == new.plan
    graph = ir.load(old.folder / "model.onnx")
    assert (graph.graph.opset_imports[""], graph.ir_version, old.metadata["opset"]) == (18, 10, 18)
    constant = [sum(_is_product(node) for node in ir.load(report.folder / "model.onnx").graph) for report in (new, old)]
    assert constant[0] == constant[1] > 0
    ids = np.random.default_rng(0).integers(1, 100, (3, 9))
    mask = (np.arange(9) < np.array([9, 4, 1])[:, None]).astype(np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    answers = [Session(report.folder, threads=1).run(feeds)["logits"] for report in (new, old)]
    # fp32: as above. Rounded to 8 bits, or to 11, a difference in the last bit may become one of a step of those.
    np.testing.assert_allclose(*answers, rtol=0, atol={"fp32": ATOL, "int8": 0.05, "fp16": 0.01}[precision])


def _is_product(node: ir.Node) -> bool:
    """Tell whether a node multiplies by a constant, in any precision."""
    if node.op_type not in ("MatMul", "Gemm", "MatMulInteger"):
        return False
    weight = node.inputs[1]
    return weight is not None and weight.is_initializer()


def test_int8_for_older_runtimes_says_where_they_are_wrong(caplog):
    for bits, older in ((None, True), (7, False)):
        warn_of_amx(bits, older=older)
    assert caplog.text == ""
    warn_of_amx(7, older=True)
    assert "onnxruntime below 1.25 multiplies int8 wrongly on CPUs with AMX" in caplog.text
