"""Small graphs of several layers, factored and dense, as the trace and `prepare_model` would leave them.

b = Blocks()
b.model(b.layer(b.op("Gelu", b.layer(b.input(6), up, "up")), down, "down"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from losparse.layers.factored import FactoredLinear
from losparse_export import LOWERINGS, Call, Plan, lower_model, plan_model
from losparse_export.graph.layer import PlannedLayer
from losparse_export.graph.marks import SCOPE
from losparse_export.graph.naming import unmarked
from losparse_export.graph.node import DOMAIN, find_factored
from losparse_export.target import CPU, finish_planned

from .builders import factored_node, initializer, make_layer, run_graph

FLOAT = ir.TensorType(ir.DataType.FLOAT)
Layer = FactoredLinear | nn.Linear


class Blocks:
    """Writes a graph node by node; values are (tokens, features) or (batch, sequence, features), as the input is."""

    def __init__(self, opset: int = 23, seed: int = 0) -> None:
        self.opset, self.random = opset, np.random.default_rng(seed)
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []

    def input(self, width: int, *, axes: int = 2, name: str = "x") -> ir.Value:
        """Add an input of the graph; (tokens, width) or (batch, sequence, width)."""
        leading = ["tokens"] if axes == 2 else ["batch", "sequence"]
        self.inputs.append(ir.Value(name=name, type=FLOAT, shape=ir.Shape([*leading, width])))
        return self.inputs[-1]

    def tokens(self, width: int) -> ir.Value:
        """Add token ids and a table of 11 random rows; (batch, sequence, width), which `prepare_model` flattens."""
        ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "sequence"]))
        self.inputs.append(ids)
        table = self.constant("embeddings.weight", self.random.normal(size=(11, width)))
        node = self._add(ir.node("Gather", [table, ids], metadata_props={SCOPE: "embeddings"}))
        node.outputs[0].type, node.outputs[0].shape = FLOAT, ir.Shape(["batch", "sequence", width])
        return node.outputs[0]

    def constant(self, name: str, values: Any) -> ir.Value:
        """Add a constant; floats become fp32."""
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.weights.append(initializer(name, array))
        return self.weights[-1]

    def op(self, kind: str, *inputs: ir.Value, width: int | None = None, scope: str = "", **attributes: Any) -> Any:
        """Add a standard node whose output has the axes of the input of most axes, but for `width`."""
        node = self._add(ir.node(kind, list(inputs), attributes or None, metadata_props={SCOPE: scope}))
        shape = max((value.shape for value in inputs if value.shape is not None), key=len)
        node.outputs[0].type = FLOAT
        node.outputs[0].shape = ir.Shape([*shape.dims[:-1], shape[-1] if width is None else width])
        return node.outputs[0]

    def layer(self, x: ir.Value, layer: Layer, name: str) -> ir.Value:
        """Add a layer: one node for a factored one, MatMul and Add for a dense one."""
        if isinstance(layer, nn.Linear):
            weight = self.constant(f"{name}.weight_t", layer.weight.detach().numpy().T)
            y = self.op("MatMul", x, weight, width=layer.out_features, scope=name)
            if layer.bias is None:
                return y
            return self.op("Add", y, self.constant(f"{name}.bias", layer.bias.detach().numpy()), scope=name)
        node, stored = factored_node(x, layer, name)
        self._add(node)
        self.weights += stored
        assert x.shape is not None
        node.outputs[0].type, node.outputs[0].shape = FLOAT, ir.Shape([*x.shape.dims[:-1], layer.out_features])
        return node.outputs[0]

    def call_again(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Call the factored layer that gave `y` on another input, with the same weights."""
        first = y.producer()
        assert first is not None and x.shape is not None
        again = ir.Node(
            first.domain,
            first.op_type,
            [x, *first.inputs[1:]],
            list(first.attributes.values()),
            metadata_props=dict(first.metadata_props),
        )
        again.outputs[0].type, again.outputs[0].shape = y.type, y.shape
        return self._add(again).outputs[0]

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """Add a LayerNormalization with random scale and shift."""
        width = _last(x)
        scale = self.constant(f"{name}.weight", self.random.uniform(0.5, 1.5, width))
        shift = self.constant(f"{name}.bias", self.random.normal(size=width))
        return self.op("LayerNormalization", x, scale, shift, axis=-1, scope=name)

    def attention(
        self, q: ir.Value, k: ir.Value, v: ir.Value, heads: int, kv_heads: int | None = None, **attributes: Any
    ) -> Any:
        """Add attention over (batch, sequence, heads * dimension), as `AttentionLayoutPass` leaves it."""
        counts = {"q_num_heads": heads, "kv_num_heads": kv_heads or heads}
        width = heads * _last(v) // (kv_heads or heads)
        return self.op("Attention", q, k, v, width=width, **counts, **attributes)

    def erf_gelu(self, x: ir.Value) -> ir.Value:
        """Add a Gelu as opset 18 has it: x * (1 + erf(x / sqrt 2)) * 0.5."""
        root, one, half = (self.scalar(number) for number in (2**0.5, 1.0, 0.5))
        gate = self.op("Add", self.op("Erf", self.op("Div", x, root)), one)
        return self.op("Mul", self.op("Mul", x, gate), half)

    def scalar(self, number: float) -> ir.Value:
        """Add a constant of one number, named as the tracer names them."""
        return self.constant(f"val_{len(self.weights)}", np.float32(number))

    def model(self, *outputs: ir.Value) -> ir.Model:
        """Return the graph; its outputs are y0, y1, ..."""
        for index, output in enumerate(outputs):
            output.name = f"y{index}"
        imports = {"": self.opset, DOMAIN: 1}
        graph = ir.Graph(
            self.inputs, outputs, nodes=self.nodes, initializers=self.weights, opset_imports=imports, name="blocks"
        )
        return ir.Model(graph, ir_version=11 if self.opset >= 23 else 10)

    def _add(self, node: ir.Node) -> ir.Node:
        self.nodes.append(node)
        return node


def _last(value: ir.Value) -> int:
    assert value.shape is not None and isinstance(value.shape[-1], int)
    return value.shape[-1]


def make_dense(out: int, in_: int, *, bias: bool = True) -> nn.Linear:
    """Return a dense layer with random weights."""
    layer = nn.Linear(in_, out, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3)
    return layer


def feed_forward(
    up_kept: Any, down_kept: Any, *, ranks: tuple[int, int] = (2, 2), bias: bool = True, opset: int = 23
) -> ir.Model:
    """x (tokens, 6) -> up (8, 6) -> Gelu -> down (5, 8) -> y0: which rows `up` keeps, and which columns `down`."""
    torch.manual_seed(0)
    b = Blocks(opset)
    up = b.layer(b.input(6), make_layer(8, 6, rank=ranks[0], kept=up_kept, bias=bias), "up")
    act = b.op("Gelu", up) if opset >= 20 else b.erf_gelu(up)
    return b.model(b.layer(act, make_layer(5, 8, rank=ranks[1], kept=down_kept, axis="in", bias=bias), "down"))


def attention_block(
    query: Any, key: Any, value: Any, output: Any, *, rank: int = 2, heads: int = 2, bias: bool = True
) -> ir.Model:
    """x (batch, sequence, 6) -> query, key, value (8, 6) -> attention -> output (6, 8) -> y0: what each keeps."""
    torch.manual_seed(0)
    b = Blocks()
    x = b.input(6, axes=3)
    parts = [
        b.layer(x, make_layer(8, 6, rank=rank, kept=kept, bias=bias), name)
        for name, kept in (("query", query), ("key", key), ("value", value))
    ]
    layer = make_layer(6, 8, rank=rank, kept=output, axis="in", bias=bias)
    return b.model(b.layer(b.attention(*parts, heads), layer, "output"))


def shapes_of(model: ir.Model) -> dict[str, PlannedLayer]:
    """Return the sizes and orders of the factored layers by name."""
    return {layer.name: layer.spec for layer in find_factored(model)}


def operators(model: ir.Model, name: str) -> list[str]:
    """Return the nodes of a lowered layer in order."""
    return [node.op_type for node in model.graph if unmarked(node.metadata_props.get(SCOPE, ""))[0] == name]


def feeds_for(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs: numbers in (-1, 1), ids in 0..10; 5 tokens, or 2 rows of 5."""
    random = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        assert value.name is not None and value.shape is not None
        sizes = [axis if isinstance(axis, int) else 5 for axis in value.shape]
        if len(sizes) == 3 or value.name == "input_ids":
            sizes[0] = 2
        ids = random.integers(0, 11, sizes)
        feeds[value.name] = ids if value.name == "input_ids" else random.uniform(-1, 1, sizes).astype(np.float32)
    return feeds


def lowered_to(model: ir.Model, *choices: dict[str, str], tokens: int = 128) -> ir.Model:
    """Lower in place by the default plan, but for the layers the choices name."""
    plan = plan_model(model, calls=Call(length=tokens))
    for choice in choices:
        plan = plan.choose(choice)
    return lower_model(model, plan)


def prefer(plan: Plan, *preferred: str) -> Plan:
    """Return a plan with the first of some forms that applies for every layer, and the plan's own where none does."""
    able = {
        layer: [name for name in preferred if CPU.lowering(name).check(planned.spec) is None]
        for layer, planned in plan.layers.items()
    }
    return plan.choose({layer: names[0] for layer, names in able.items() if names})


def every_plan(model: ir.Model, tokens: int, preferred: Sequence[str] = ()) -> list[Plan]:
    """Return the default plan, one by preference, and one for each form: every layer in it that it applies to."""
    default = plan_model(model, calls=Call(length=tokens))
    plans = [default, prefer(default, *preferred), *(prefer(default, form.NAME) for form in LOWERINGS)]
    different = {tuple(layer.lowering for layer in plan.layers.values()): plan for plan in plans}
    return list(different.values())


def dense_outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Compute what the layers compute: a copy of the graph with every layer's merged weight, and no pass behind it."""
    return run_graph(lowered_to(model.clone(), dict.fromkeys(shapes_of(model), "dense")), feeds)


def assert_equal_outputs(
    model: ir.Model, feeds: dict[str, np.ndarray], expected: list[np.ndarray], atol: float
) -> None:
    """Run a model of standard operators and compare; `atol` is for outputs of magnitude 1, and scaled with larger."""
    for actual, reference in zip(run_graph(model, feeds), expected, strict=True):
        assert actual.shape == reference.shape
        np.testing.assert_allclose(actual, reference, rtol=0, atol=atol * max(1.0, np.abs(reference).max(initial=0.0)))


def finish_model(model: ir.Model, call: Call | None = None) -> ir.Model:
    """Finish a model of which nothing is quantised."""
    return finish_planned(model, call)[0]
