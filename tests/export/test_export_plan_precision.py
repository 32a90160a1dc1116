"""Every layer is quantised, or left, as its own entry of the plan says, also where layers share nodes.

Query, key and value of one input are stacked into one product, equal right factors become one, and attention in the
low-rank space multiplies weights of several layers. A pass that took one layer's entry for all would quantise the
others with it, or none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
import torch

from losparse.errors import LosparseError
from losparse_export import apply_precision
from losparse_export.build import Built, build_graph
from losparse_export.target import prepare_model

from .blocks import Blocks, assert_equal_outputs, dense_outputs, feeds_for
from .builders import make_layer, run_graph

QKV = ("query", "key", "value")
LAYERS = (*QKV, "output")

# As in `test_export_fold`: rounding is near 1e-6, and a lost product is off by 0.1 and more.
ATOL = 1e-5


def block(heads: int, rank: int) -> ir.Model:
    """Query, key, value, attention and the layer behind it; 256 features, so that every product is faster in int8."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.tokens(256)
    parts = [b.layer(x, make_layer(256, 256, rank=rank, kept=[]), name) for name in QKV]
    return prepare_model(
        b.model(b.layer(b.attention(*parts, heads), make_layer(256, 256, rank=rank, kept=[]), "output"))
    )


def one_factor_for_two() -> ir.Model:
    """Two layers that store one right factor, and differ in all else."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(256)
    first, second = (make_layer(256, 256, rank=96, kept=[]) for _ in range(2))
    with torch.no_grad():
        second.v.copy_(first.v)
    return prepare_model(b.model(b.op("Neg", b.layer(x, first, "first")), b.op("Neg", b.layer(x, second, "second"))))


def some_int8(layers: int) -> list[tuple[str, ...]]:
    """Return every choice of precisions but fp32 for all, which leaves nothing to quantise and is refused."""
    return [chosen for chosen in itertools.product(("fp32", "int8"), repeat=layers) if "int8" in chosen]


def build(model: ir.Model, precisions: Mapping[str, str], precision: str = "int8") -> Built:
    """Build a graph by its own plan, edited."""
    plan = build_graph(model, precision=precision).plan
    plan = plan.choose(dict.fromkeys(plan.layers, "low_rank"))
    layers = {name: replace(layer, precision=precisions[name]) for name, layer in plan.layers.items()}
    plan = replace(plan, layers=layers)
    built = build_graph(model, precision=precision, plan=plan)
    assert built.plan == plan
    return built


def columns(matrix: Any) -> set[bytes]:
    """Return what a matrix holds by columns: their order is that of the fold pass."""
    return {column.tobytes() for column in matrix.T.copy()}


def precisions_of(built: Built, model: ir.Model) -> dict[str, list[str]]:
    """Find every layer's factors in the products, as `v.T` and `u.T`, and say whether those are to be quantised."""
    stored = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    found: dict[str, list[str]] = {}
    for node in built.graph.graph:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        assert node.inputs[1] is not None and node.inputs[1].const_value is not None
        have = columns(node.inputs[1].const_value.numpy())
        for name in (name for name in stored if name.endswith((".u", ".v")) and columns(stored[name].T) <= have):
            found.setdefault(name, []).append("int8" if node.name in built.quantise else "fp32")
    return found


@pytest.mark.parametrize("precisions", list(itertools.product(("fp32", "int8"), repeat=3)))
def test_stacked_layers_keep_their_own_precision(precisions):
    model, wanted = block(heads=4, rank=64), dict(zip(QKV, precisions, strict=True)) | {"output": "int8"}
    built = build(model, wanted)
    assert precisions_of(built, model) == {f"{name}.{factor}": [wanted[name]] for name in LAYERS for factor in "uv"}
    assert_equal_outputs(built.graph, feeds_for(model), dense_outputs(model, feeds_for(model)), ATOL)
    stacked = sum(precision == "int8" for precision in precisions)
    assert any(node.op_type == "Split" for node in built.graph.graph) == (stacked > 1)


@pytest.mark.parametrize("precisions", some_int8(2))
def test_one_right_factor_of_two_precisions_is_read_twice(precisions):
    model, wanted = one_factor_for_two(), dict(zip(("first", "second"), precisions, strict=True))
    found = precisions_of(built := build(model, wanted), model)
    assert found["first.u"] == [wanted["first"]] and found["second.u"] == [wanted["second"]]
    assert found["first.v"] == found["second.v"] == list(dict.fromkeys(precisions))
    assert_equal_outputs(built.graph, feeds_for(model), dense_outputs(model, feeds_for(model)), ATOL)


def head_widths(built: Built) -> list[int]:
    """Return the features that query, key and value of the attention have."""
    node = next(node for node in built.graph.graph if node.op_type == "Attention")
    return [int(value.shape[-1]) for value in node.inputs[:3] if value is not None and value.shape is not None]


@pytest.mark.parametrize("precisions", some_int8(4))
def test_attention_is_narrowed_only_between_layers_of_one_precision(precisions):
    """Its scores multiply weights of query and key, its output those of value and the layer behind it."""
    model, wanted = block(heads=2, rank=48), dict(zip(LAYERS, precisions, strict=True))
    built = build(model, wanted)
    scores, values = wanted["query"] == wanted["key"], wanted["value"] == wanted["output"]
    assert head_widths(built) == [2 * 48 if scores else 256, 2 * 48 if scores else 256, 2 * 48 if values else 256]
    found = precisions_of(built, model)
    for name in QKV:
        assert found[f"{name}.v"] == [wanted[name]]
    if scores:
        node = next(node for node in built.graph.graph if "scores_t" in str(node.inputs[1:2]))
        assert (node.name in built.quantise) == (wanted["query"] == "int8")
    assert_equal_outputs(built.graph, feeds_for(model), dense_outputs(model, feeds_for(model)), ATOL)


def test_what_is_quantised_is_what_the_plan_says():
    """To the end: a plan for value alone leaves one product of integers for each of its factors."""
    model = block(heads=4, rank=64)
    built = build(model, dict.fromkeys(LAYERS, "fp32") | {"value": "int8"})
    result = apply_precision(built.graph, "int8", nodes=built.quantise)
    kinds = [node.op_type for node in result.graph]
    assert kinds.count("MatMulInteger") == len(built.quantise) == 2
    exact, rounded = (run_graph(graph, feeds_for(model))[0] for graph in (built.graph, result))
    assert 0 < abs(exact - rounded).max() < 0.1 * abs(exact).max()


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_a_plan_that_leaves_nothing_to_quantise(precision):
    """It was taken for small products, of which all are quantised because it was asked for."""
    message = f"^the plan leaves nothing to quantise for precision '{precision}': its layers are all fp32; edit the "
    with pytest.raises(LosparseError, match=message):
        build(block(heads=2, rank=48), dict.fromkeys(LAYERS, "fp32"), precision)


def test_products_that_gain_nothing_leave_out_those_that_the_plan_wants_in_fp32():
    torch.manual_seed(0)
    b = Blocks()
    layers = {name: make_layer(12, 16, rank=3, kept=[]) for name in ("first", "second")}
    y = b.layer(
        b.op("Neg", b.layer(b.input(16), layers["first"], "first"), width=12),
        make_layer(16, 12, rank=3, kept=[]),
        "second",
    )
    model = prepare_model(b.model(b.op("Neg", y)))
    built = build(model, {"first": "int8", "second": "fp32"})
    assert all(name.startswith("/first/") for name in built.quantise) and len(built.quantise) == 2


@pytest.mark.parametrize("precision", ["fp32", "int8-weights"])
def test_int8_in_a_plan_for_fp32_is_refused(precision):
    message = (
        "^the plan is for precision 'fp32', so that of layer 'key' must be 'fp32', got 'int8'; edit a plan that an "
        r"export with precision='int8' \(--precision\) wrote$"
    )
    with pytest.raises(LosparseError, match=message):
        build(block(heads=2, rank=48), dict.fromkeys(LAYERS, "fp32") | {"key": "int8"}, precision)
