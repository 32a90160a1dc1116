"""Embedding tables as int8 rows: the numbers, which tables, what other readers read, and what onnxruntime keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from losparse.errors import LosparseError
from losparse_export import PRECISION_TABLE, ExportReport, ParityError, apply_precision, check_folder
from losparse_export.folder.model import fingerprint, weight_bytes
from losparse_export.precision.tables import LEAST_SAVED, quantise_rows, round_table, shrink_tables, tables_to_shrink
from losparse_runtime import read_metadata
from losparse_runtime.engine.cpus import int8_overflows

from .builders import run_graph
from .toy import BOUNDS, QUANTISED, as_run, types, value

ROWS, WIDTH = 700, 48  # saves 100 kB, more than LEAST_SAVED
SHAPES: dict[tuple[Any, ...], tuple[int, ...]] = {
    ("tokens",): (9,),
    ("batch", "tokens"): (3, 5),
    (1, "tokens"): (1, 6),
    (2, 4): (2, 4),
    ("batch", 2, "tokens"): (3, 2, 4),
    (): (),
}


def table(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    """Rows of very different length, as tables have; the first, of padding, is zero."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(rows, WIDTH)) * random.uniform(0.01, 10, (rows, 1))
    numbers[0] = 0
    return numbers.astype(np.float32)


def graph_of(
    nodes: list[ir.Node], stored: dict[str, ir.Value], ids: ir.Value, outputs: list[ir.Value], opset: int
) -> ir.Model:
    for output in outputs:
        output.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([ids], outputs, nodes=nodes, initializers=stored.values(), opset_imports={"": opset}, name="main")
    return ir.Model(graph, ir_version={23: 11, 18: 10}[opset], producer_name="losparse")


def numbers_of(shape: tuple[Any, ...]) -> ir.Value:
    return ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(shape))


def named(op_type: str, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Node:
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = f"{name}_output_0"
    return node


def read_graph(opset: int = 23, shape: tuple[Any, ...] = ("tokens",), **stored: np.ndarray) -> ir.Model:
    """ids -> Gather(table), which is the output."""
    values = {"words.weight": value("words.weight", table())}
    values |= {name: value(name, array) for name, array in stored.items()}
    ids = numbers_of(shape)
    node = named("Gather", "/words/Gather", values["words.weight"], ids, axis=0)
    node.outputs[0].shape = ir.Shape([*shape, WIDTH])
    return graph_of([node], values, ids, list(node.outputs), opset)


def tied_graph(opset: int = 23, wide: int = 70) -> ir.Model:
    """ids -> Gather(table) -> product -> product with the same table transposed; a second Gather of other numbers."""
    random = np.random.default_rng(1)
    values = {"words.weight": value("words.weight", table())}
    for name, sizes in (("up.weight_t", (WIDTH, wide)), ("down.weight_t", (wide, WIDTH))):
        values[name] = value(name, random.normal(size=sizes).astype(np.float32))
    ids = numbers_of(("tokens",))
    first = named("Gather", "/words/Gather", values["words.weight"], ids)
    up = named("MatMul", "/up/MatMul", first.outputs[0], values["up.weight_t"])
    down = named("MatMul", "/down/MatMul", up.outputs[0], values["down.weight_t"])
    turned = named("Transpose", "/head/Transpose", values["words.weight"], perm=[1, 0])
    head = named("MatMul", "/head/MatMul", down.outputs[0], turned.outputs[0])
    more = named("Neg", "/Neg", ids)
    second = named("Gather", "/words/Gather_1", values["words.weight"], more.outputs[0])
    more.outputs[0].shape, more.outputs[0].type = ir.Shape(["tokens"]), ids.type
    first.outputs[0].shape, second.outputs[0].shape = ir.Shape(["tokens", WIDTH]), ir.Shape(["tokens", WIDTH])
    head.outputs[0].shape = ir.Shape(["tokens", ROWS])
    nodes = [first, up, down, turned, head, more, second]
    return graph_of(nodes, values, ids, [head.outputs[0], second.outputs[0]], opset)


def feeds(shape: tuple[int, ...] = (9,)) -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(2).integers(0, ROWS, shape)}


def steps(array: np.ndarray) -> np.ndarray:
    """Half a scale of every row; what its numbers may move by, and a little for the rounding of the product."""
    return np.abs(array).max(axis=1) / 127 / 2 * (1 + 1e-5)


def shrunk(model: ir.Model) -> ir.Model:
    copy = model.clone()
    assert shrink_tables(copy) == ("words.weight",)
    return copy


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_number_moves_by_half_a_scale_at_most(shape: tuple[Any, ...], opset: int) -> None:
    model, given = read_graph(opset, shape), feeds(SHAPES[shape])
    (expected,), (actual,) = run_graph(model, given), run_graph(shrunk(model), given)
    assert actual.shape == expected.shape and actual.dtype == np.float32
    allowed = steps(table())[given["ids"]][..., None]
    difference = np.abs(actual - expected)
    assert (difference <= allowed).all() and difference.max() > 0


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.floats(-(2.0**126), 2.0**126, width=32),
    )
)
@settings(deadline=None)
def test_every_row_is_within_half_its_scale(array: np.ndarray) -> None:
    rows, scales = quantise_rows(array)
    assert rows.dtype == np.int8 and scales.dtype == np.float32 and rows.min(initial=0) >= -127
    assert np.isfinite(scales).all() and (scales > 0).all()
    back = rows.astype(np.float64) * scales[:, None].astype(np.float64)
    # Below 1e-36 a scale is a denormal number of few bits, and rounds by itself.
    assert (np.abs(back - array) <= 0.5001 * scales[:, None].astype(np.float64) + 1e-36).all()


def test_a_row_of_zeros_stays_zero() -> None:
    rows, scales = quantise_rows(table())
    assert not rows[0].any() and scales[0] == 1


def with_large_columns() -> np.ndarray:
    """A column of 15 times the size of the others, and much the same in every row, as those of real tables are."""
    numbers = np.random.default_rng(4).normal(size=(ROWS, WIDTH)).astype(np.float32)
    numbers[:, 3] = 15 + 0.1 * numbers[:, 3]
    return numbers


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("precision", ["fp32", "int8-weights"])
def test_large_columns_have_scales_of_their_own(precision: str, opset: int) -> None:
    found = round_table(with_large_columns())
    assert found.columns is not None and list(np.nonzero(found.columns > 5)[0]) == [3]
    assert round_table(table()).columns is None
    model, given = tied_graph(opset), {"ids": np.arange(1, 10)}
    model.graph.initializers["words.weight"].const_value = ir.tensor(with_large_columns(), name="words.weight")
    before = run_graph(model, given)
    after = apply_precision(model, precision, embeddings="int8")
    assert "words.weight.columns" in after.graph.initializers
    # An int8 head multiplies with the rows as they are.
    assert "words.weight.columns" not in apply_precision(model, "int8").graph.initializers
    actual = run_graph(after, given)
    # The largest of 700 x 48 normal numbers is below 4.5, and a number moves by half of 1/127 of its row's at most.
    small = np.delete(np.abs(actual[1] - before[1]), 3, axis=1)
    assert small.max() < 0.5 * 4.5 / 127
    assert np.abs(actual[0] - before[0]).max() < 0.03 * np.abs(before[0]).max()


def test_a_table_is_rounded_the_same_in_parts_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantise_rows(table())
    monkeypatch.setattr("losparse_export.precision.tables._PART", 100)
    assert all(np.array_equal(a, b) for a, b in zip(whole, quantise_rows(table()), strict=True))


def test_the_file_holds_int8_and_so_does_the_session(tmp_path: Path) -> None:
    model = shrunk(read_graph(shape=("batch", "tokens")))
    assert weight_bytes(model) < ROWS * WIDTH + 4 * ROWS + 100
    # onnxruntime folds what is constant: no float table may come of that.
    ran = as_run(model, tmp_path)
    stored = {tensor.const_value.dtype: tensor.const_value.size for tensor in ran.graph.initializers.values()}
    assert stored[ir.DataType.INT8] == ROWS * WIDTH
    assert stored.get(ir.DataType.FLOAT, 0) <= ROWS


def test_names_and_constants_are_those_of_the_table() -> None:
    model = shrunk(read_graph(shape=("batch", "tokens")))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names) and all(name.startswith("/words/") for name in names)
    assert {"words.weight.rows", "words.weight.scales"} <= set(model.graph.initializers)
    assert "words.weight" not in model.graph.initializers
    ir.passes.common.CheckerPass(full_check=True)(model)


def test_an_output_of_the_graph_keeps_its_name() -> None:
    before, after = read_graph(), shrunk(read_graph())
    assert [output.name for output in after.graph.outputs] == [output.name for output in before.graph.outputs]


@pytest.mark.parametrize("opset", [18, 23])
def test_a_tied_head_and_a_second_gather_read_the_same_rows(opset: int) -> None:
    model = tied_graph(opset)
    after, given = shrunk(model), {"ids": np.arange(1, 10)}
    sizes = [tensor.const_value.size for tensor in after.graph.initializers.values()]
    assert sizes.count(ROWS * WIDTH) == 1
    # With the rounded table in float, the same graph gives the same numbers: all of its readers read that.
    rows, scales = quantise_rows(table())
    reference = model.clone()
    rounded = ir.tensor(rows.astype(np.float32) * scales[:, None], name="words.weight")
    reference.graph.initializers["words.weight"].const_value = rounded
    for actual, expected in zip(run_graph(after, given), run_graph(reference, given), strict=True):
        # Sums of 70 products of one size, of numbers that are equal: float32 keeps 7 digits of them.
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_no_run_goes_over_the_whole_table(tmp_path: Path) -> None:
    """The head's table is made when the model is opened; a DequantizeLinear of it would be left to every run."""
    ran = as_run(shrunk(tied_graph()), tmp_path)
    whole = [node.op_type for node in ran.graph for value in node.outputs if value.shape == ir.Shape([ROWS, WIDTH])]
    assert whole == [] and types(ran)["DequantizeLinear"] == 2
    heads = [node for node in ran.graph if node.name == "/head/MatMul" or node.op_type in ("Gemm", "FusedMatMul")]
    assert heads and all(node.inputs[1] is not None and node.inputs[1].is_initializer() for node in heads)


@pytest.mark.parametrize(
    ("opset", "bits"),
    [
        (23, 7),
        pytest.param(23, 8, marks=pytest.mark.skipif(int8_overflows(), reason="weights of 8 bits overflow here")),
        (18, 7),
    ],
)
def test_a_tied_head_is_an_int8_product_of_the_same_rows(opset: int, bits: int, tmp_path: Path) -> None:
    model, given = tied_graph(opset), {"ids": np.arange(1, 10)}
    after = apply_precision(model, "int8", nodes=["/up/MatMul", "/down/MatMul"], weight_bits=bits)
    floats = apply_precision(model, "int8", nodes=["/up/MatMul", "/down/MatMul"], weight_bits=bits, embeddings="float")
    rows = after.graph.initializers["words.weight.rows"].const_value
    # The kernel of a CPU without VNNI bears 7 bits: the table has what its head has.
    assert rows is not None and np.abs(rows.numpy()).max() == 2 ** (bits - 1) - 1
    (actual, taken), (expected, exact) = run_graph(after, given), run_graph(floats, given)
    # Activations of 8 bits and rows of `bits`: 48 products of random sign, as in BOUNDS.
    assert 0 < np.abs(actual - expected).max() < BOUNDS["int8"] * np.abs(expected).max()
    assert (np.abs(taken - exact) <= steps(table())[(-given["ids"])][:, None] * 127 / (2 ** (bits - 1) - 1)).all()
    ran = types(as_run(after, tmp_path))
    assert ran["Transpose"] == 0 and ran["DequantizeLinear"] == 2
    assert ran["DynamicQuantizeMatMul"] + ran["MatMulIntegerToFloat"] == 3


@pytest.mark.parametrize("precision", QUANTISED)
def test_a_tied_head_in_every_precision(precision: str) -> None:
    model = tied_graph()
    given = {"ids": np.arange(1, 10)}
    options = {"calibration": [{"ids": np.arange(1, ROWS)}]} if precision == "int8-static" else {}
    found = {kind: apply_precision(model, precision, embeddings=kind, **options) for kind in ("float", "int8")}
    assert weight_bytes(found["int8"]) < weight_bytes(found["float"]) - LEAST_SAVED
    # The products are the same ones, so what differs is the table: 1/254 of a row's largest number, twice.
    for actual, expected in zip(*(run_graph(found[kind], given) for kind in ("int8", "float")), strict=True):
        assert 0 < np.abs(actual - expected).max() < 0.03 * np.abs(expected).max()


def test_precisions_have_int8_tables_but_fp32_and_fp16() -> None:
    model = tied_graph()
    assert apply_precision(model, "fp32") is model
    before = fingerprint(model)
    int8 = apply_precision(model, "fp32", embeddings="int8")
    assert fingerprint(model) == before and types(int8)["DequantizeLinear"] == 2
    assert types(apply_precision(model, "int8"))["DequantizeLinear"] == 2
    assert types(apply_precision(model, "int8", embeddings="float"))["DequantizeLinear"] == 0
    assert types(apply_precision(model, "fp16"))["DequantizeLinear"] == 0


def test_tables_that_stay() -> None:
    random = np.random.default_rng(3)
    assert tables_to_shrink(read_graph()) == ("words.weight",)
    for name, array in {
        "small": table(300),
        "not finite": np.where(np.arange(ROWS)[:, None] == 5, np.inf, table()).astype(np.float32),
        "int8 rows": random.integers(-127, 127, (ROWS, WIDTH)).astype(np.int8),
        "half": table().astype(np.float16),
    }.items():
        model = read_graph(**{"words.weight": array})
        assert tables_to_shrink(model) == (), name
        assert shrink_tables(model) == () and types(model) == {"Gather": 1}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_int8_rows_of_a_checkpoint_go_through_exactly(precision: str) -> None:
    """Gather, Cast and Mul of rows that are int8 already: nothing is rounded again."""
    rows, scales = quantise_rows(table())
    model = tied_graph()
    stored = {"words.rows": value("words.rows", rows), "words.scale": value("words.scale", scales[:, None])}
    for one in stored.values():
        model.graph.register_initializer(one)
    first = next(node for node in model.graph if node.name == "/words/Gather")
    taken = named("Gather", "/words/Gather_2", stored["words.rows"], model.graph.inputs[0])
    sizes = named("Gather", "/words/Gather_3", stored["words.scale"], model.graph.inputs[0])
    cast = named("Cast", "/words/Cast", taken.outputs[0], to=ir.DataType.FLOAT)
    found = named("Mul", "/words/Mul", cast.outputs[0], sizes.outputs[0])
    model.graph.insert_before(first, [taken, sizes, cast, found])
    for user, index in tuple(first.outputs[0].uses()):
        user.replace_input_with(index, found.outputs[0])
    found.outputs[0].type, found.outputs[0].shape = first.outputs[0].type, first.outputs[0].shape
    model.graph.outputs.append(found.outputs[0])
    after = apply_precision(model, precision, embeddings="int8")
    assert {"words.rows", "words.scale"} <= set(after.graph.initializers)
    given = {"ids": np.arange(1, 10)}
    assert np.array_equal(run_graph(after, given)[-1], run_graph(model, given)[-1])


def test_a_table_read_by_constant_numbers_stays() -> None:
    """Positions by a constant, say; onnxruntime makes one small constant of that when it opens the model."""
    model = read_graph(numbers=np.arange(9))
    gather = model.graph[0]
    gather.replace_input_with(1, model.graph.initializers["numbers"])
    assert tables_to_shrink(model) == ()


def test_columns_that_are_taken_are_no_rows() -> None:
    model = read_graph()
    model.graph[0].attributes["axis"] = ir.AttrInt64("axis", 1)
    assert tables_to_shrink(model) == ()


def test_choices_that_are_refused() -> None:
    with pytest.raises(LosparseError, match="embeddings must be one of auto, float, int8, got 'int4'"):
        apply_precision(read_graph(), "fp32", embeddings="int4")
    with pytest.raises(LosparseError, match="'int8' is not for precision 'fp16', whose tables are in half precision"):
        apply_precision(read_graph(), "fp16", embeddings="int8")


@pytest.fixture
def export_wide(bert: Any, bert_trace: Any, export_traced: Any) -> Callable[..., ExportReport]:
    """Export `bert` with 1,000 tokens; its graph is that of 100, but for the table."""
    model = copy.deepcopy(bert)
    torch.manual_seed(0)
    model.resize_token_embeddings(1000, mean_resizing=False)
    words = model.bert.embeddings.word_embeddings
    trace = bert_trace.clone()
    name = next(name for name in trace.graph.initializers if name.endswith("word_embeddings.weight"))
    trace.graph.initializers[name].const_value = ir.tensor(words.weight.detach().numpy(), name=name)
    trace.graph.initializers[name].shape = ir.Shape(words.weight.shape)
    return lambda out, **options: export_traced(trace, model, out, **options)


def test_a_folder_says_that_its_tables_are_int8(export_wide: Any, export_bert: Any, tmp_path: Path) -> None:
    report, plain = export_wide(tmp_path / "out", embeddings="int8"), export_wide(tmp_path / "float")
    assert (report.metadata["precision"], report.metadata["embeddings"]) == ("fp32", "int8")
    assert read_metadata(report.folder).arithmetic == report.judge.name == "fp32 with int8 embeddings"
    assert "embeddings" not in plain.metadata and plain.judge is PRECISION_TABLE["fp32"]
    assert plain.parity.max_abs <= plain.parity.tolerance < report.parity.max_abs <= report.parity.tolerance
    assert sum(report.bytes.values()) < sum(plain.bytes.values()) - LEAST_SAVED
    # What checks it later takes the same bounds.
    checked = check_folder(report.folder, plain.folder)
    assert checked.passed and checked.judgement is not None and checked.judgement.precision == report.judge.name
    int8 = export_wide(tmp_path / "int8", precision="int8")
    assert int8.metadata["embeddings"] == "int8" and int8.judge is PRECISION_TABLE["int8"]
    # A table that is too small to gain: nothing is rounded, and nothing says so.
    small = export_bert(tmp_path / "small", embeddings="int8")
    assert "embeddings" not in small.metadata and small.judge is PRECISION_TABLE["fp32"]


def test_a_wrong_scale_is_caught(export_wide: Any, bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of fp32 with int8 tables are no free pass: scales of another row do not stand the comparison."""
    right = round_table
    monkeypatch.setattr(
        "losparse_export.precision.tables.round_table",
        lambda *given: replace(right(*given), scales=np.roll(right(*given).scales, 1)),
    )
    with pytest.raises(ParityError, match=r"first layer that differs is 'bert\.embeddings\.word_embeddings'"):
        export_wide(tmp_path / "out", embeddings="int8")
    assert not (tmp_path / "out").exists()
