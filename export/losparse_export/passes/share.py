"""Products that read the same tensor become one product, and a Split where they differ and that is cheaper.

    x -> MatMul(A), x -> MatMul(A)            ->        x -> MatMul(A), read twice
    x -> MatMul(A), x -> MatMul(B) + b        ->        x -> MatMul([A B]) + [0 b] -> Split

The first is what layers with a shared right factor leave. Products of which the plan wants different precisions stay
apart: each is what its own layer's plan says.

Where every part goes to (batch, sequence, features) next, the whole does before it is split: one Reshape for all.

Thin products run at a poor rate, every node costs a start, and a quantised product quantises its input anew; the Split
copies what was computed. Query, key and value of a factored layer gain, wide products do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..costs import Costs, Counts, Traffic
from ..graph.constants import (
    add_constant,
    constant_matrix,
    constant_vector,
    derived_name,
    digest,
    new_node,
    replace_value,
)
from ..graph.marks import inherit, mark_shared, marks_of, scope_of
from ..graph.node import Array


@dataclass
class _Product:
    """A product with a constant, and the bias behind it."""

    node: ir.Node
    weight: Array
    bias: Array | None
    output: ir.Value

    @property
    def width(self) -> int:
        return int(self.weight.shape[1])


class SharePass(ir.passes.InPlacePass):
    """Stacks products of the same input and precision.

    Args:
        costs: of the machine.
        calls: that the graph is for.
    """

    def __init__(self, costs: Costs, calls: Traffic) -> None:
        super().__init__()
        self._costs, self._calls = costs, calls

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        changed = False
        readers: dict[tuple[ir.Value, str], list[ir.Node]] = {}
        for node in model.graph:
            if _is_product(node):
                x = node.inputs[0]
                assert x is not None
                readers.setdefault((x, _wanted(node)), []).append(node)
        for nodes in readers.values():
            if len(nodes) == 1:
                continue
            different = _merge_equal(nodes)
            changed = changed or len(different) < len(nodes)
            products = [_read(node) for node in different]
            if len(products) > 1 and self._pays(products):
                _stack(model.graph, products)
                changed = True
        return ir.passes.PassResult(model, changed)

    def _pays(self, products: list[_Product]) -> bool:
        features, others = int(products[0].weight.shape[0]), len(products) - 1
        # What a kernel computes beside the outputs that are wanted: a thin product takes as long as a panel.
        apart, total = (self._costs.width(product.width) for product in products), sum(p.width for p in products)
        idle = max(0, sum(apart) - self._costs.width(total)) * features
        quantised = _wanted(products[0].node) != "fp32"  # each would quantise its own input
        saved = Counts(nodes=others, multiply_adds=idle, quantised=others * features if quantised else 0)
        return self._price(saved) > self._price(Counts(nodes=1, elements=sum(product.width for product in products)))

    def _price(self, counts: Counts) -> float:
        return self._calls.per_token(lambda call: self._costs.price(counts, call))


def _is_product(node: ir.Node) -> bool:
    if (node.domain, node.op_type) != ("", "MatMul") or node.inputs[0] is None:
        return False
    x = node.inputs[0]
    return x.const_value is None and x.shape is not None and constant_matrix(node.inputs[1]) is not None


def _wanted(node: ir.Node) -> str:
    return marks_of(node).wanted or "fp32"


def _merge_equal(nodes: list[ir.Node]) -> list[ir.Node]:
    """Let every product that equals an earlier one be computed once; returns those that are left."""
    first: dict[tuple[tuple[int, ...], str, str], ir.Node] = {}
    left = []
    for node in nodes:
        weight = constant_matrix(node.inputs[1])
        assert weight is not None
        earlier = first.setdefault((weight.shape, weight.dtype.str, digest(weight)), node)
        if earlier is node or node.outputs[0].is_graph_output():  # two outputs of a graph cannot be one value
            left.append(node)
            continue
        mark_shared(earlier)
        replace_value(node.outputs[0], earlier.outputs[0])
    return left


def _writer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None, "a node of the graph writes it"
    return node


def _read(node: ir.Node) -> _Product:
    weight, output = constant_matrix(node.inputs[1]), node.outputs[0]
    assert weight is not None
    uses = list(output.uses())
    if len(uses) == 1 and uses[0][0].op_type == "Add" and not output.is_graph_output():
        adder, place = uses[0]
        bias = constant_vector(adder.inputs[1 - place], weight.shape[1])
        if bias is not None:
            return _Product(node, weight, bias, adder.outputs[0])
    return _Product(node, weight, None, output)


def _stack(graph: ir.Graph, products: list[_Product]) -> None:
    first = products[0].node
    x, like = first.inputs[0], products[0].output
    assert x is not None and x.shape is not None
    name = derived_name(first.inputs[1], "shared")
    widths = [product.width for product in products]
    weight = add_constant(graph, name, np.concatenate([product.weight for product in products], axis=1))
    total = new_node(graph, first, "MatMul", [x, weight], like=like, scope=first)
    total.shape = ir.Shape([*x.shape.dims[:-1], sum(widths)])
    shared = [_writer(total)]
    if any(product.bias is not None for product in products):
        parts = [p.bias if p.bias is not None else np.zeros(p.width, p.weight.dtype) for p in products]
        bias = add_constant(graph, f"{name}_bias", np.concatenate(parts))
        total = new_node(graph, first, "Add", [total, bias], like=total, scope=first)
        shared.append(_writer(total))
    sizes = add_constant(graph, f"{name}_widths", np.array(widths, np.int64))
    split = ir.Node(
        "",
        "Split",
        [total, sizes],
        [ir.AttrInt64("axis", -1)],
        num_outputs=len(widths),
    )
    graph.insert_before(first, split)
    shared.append(inherit(split, first))
    if len({scope_of(product.node) for product in products}) > 1:
        for node in shared:  # not where all are of one layer, whose own output the parts then are
            mark_shared(node)
    for product, part in zip(products, split.outputs, strict=True):
        part.type, part.shape = product.output.type, ir.Shape([*x.shape.dims[:-1], product.width])
        replace_value(product.output, part)
    _reshape_once(graph, split)


def _reshape_once(graph: ir.Graph, split: ir.Node) -> None:
    """Let the whole go to three axes instead of every part, where all do."""
    readers = [_only_reader(part) for part in split.outputs]
    shapes = [None if reader is None else _leading(reader) for reader in readers]
    leading, whole = shapes[0], split.inputs[0]
    if leading is None or whole is None or any(each is not leading for each in shapes):
        return
    width = sum(part.shape[-1] for part in split.outputs if part.shape is not None and isinstance(part.shape[-1], int))
    last = add_constant(graph, f"unflatten_{width}_shared", np.array([width]))
    first = readers[0]
    assert first is not None and first.inputs[1] is not None and first.outputs[0].shape is not None
    shape = first.inputs[1].producer()
    assert shape is not None, "a Concat writes it"
    sizes = new_node(graph, shape, "Concat", [leading, last], like=first.inputs[1], scope=shape, axis=0)
    apart = new_node(graph, split, "Reshape", [whole, sizes], like=first.outputs[0], scope=split)
    apart.shape = ir.Shape([*first.outputs[0].shape.dims[:-1], width])
    split.replace_input_with(0, apart)
    for reader, part in zip(readers, split.outputs, strict=True):
        assert reader is not None
        part.shape = reader.outputs[0].shape
        replace_value(reader.outputs[0], part)


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and uses[0][1] == 0 and not value.is_graph_output() else None


def _leading(node: ir.Node) -> ir.Value | None:
    """Return what a Reshape to (batch, sequence, features) takes batch and sequence from."""
    shape = node.inputs[1].producer() if node.op_type == "Reshape" and node.inputs[1] is not None else None
    if shape is None or shape.op_type != "Concat" or len(shape.inputs) != 2:
        return None
    whole = node.outputs[0].shape
    last = shape.inputs[1].const_value if shape.inputs[1] is not None else None
    return shape.inputs[0] if whole is not None and len(whole) == 3 and last is not None and last.size == 1 else None
