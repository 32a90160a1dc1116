"""Small graphs by whose times a machine's costs are told apart: products, quantisation, copies, gathers, empty nodes.

Each probe is a few nodes on (tokens, features), and says how much of every constant of `Costs` it takes. Every product
has an input of its own, written by the node before it, as in a model: two that read the same tensor would quantise it
once. Each has a weight of its own, too, which a call has to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph.node import Array
from ..precision.apply import apply_precision

RUN, MULTIPLY_ADD = "run", "multiply_add"
"""What a probe takes beside fields of `Costs`: calling a session at all, and multiply-adds in fp32."""

TOKENS = (16, 128)
# Input and output features: thin, square and wide, both ways, so that inputs and outputs can be told apart.
_SIZES = ((384, 16), (384, 48), (384, 1536), (768, 24), (768, 64), (768, 160), (768, 640))
PRODUCTS = (*_SIZES, *(sizes[::-1] for sizes in _SIZES), (384, 384))
_COPIES = 3
_SMALLEST = (64, 16)  # of which many are timed, to know what a node takes
_WIDTHS = (384, 1536)
_CHAIN = 6

Row = Mapping[str, float]


@dataclass(frozen=True)
class Probe:
    """One graph that is timed.

    Attributes:
        name: says what it is.
        graph: x (tokens, width) -> y.
        tokens: rows of x.
        width: of x.
        takes: how much of every constant it takes in a call; products are counted apart.
        products: of fp32 or int8, whose outputs are rounded up by a panel and a step that are only known later.
        precision: of the products.
    """

    name: str
    graph: ir.Model
    tokens: int
    width: int
    takes: Row
    products: Sequence[tuple[int, int]] = ()
    precision: str = "fp32"

    def row(self, panel: int, step: int) -> dict[str, float]:
        """Return how much of every constant the probe takes, on kernels of this granularity."""
        taken = Counter({RUN: 1.0, **self.takes})
        quantised = self.precision == "int8"
        taken["start"] += len(self.products)
        for inputs, outputs in self.products:
            wide = max(panel, -(-outputs // step) * step)
            taken["int8" if quantised else MULTIPLY_ADD] += self.tokens * inputs * wide
            taken["quantise" if quantised else "read"] += self.tokens * inputs
            taken["scale" if quantised else "write"] += self.tokens * outputs
            taken["byte"] += inputs * outputs * (1 if quantised else 4)
        return dict(taken)


def probes() -> list[Probe]:
    """Return all probes, in an order in which neighbours differ."""
    found = [
        _product(sizes, tokens, precision) for sizes in PRODUCTS for tokens in TOKENS for precision in ("fp32", "int8")
    ]
    for width in _WIDTHS:
        for tokens in TOKENS:
            found += [
                _adds(tokens, width, _CHAIN),
                _concat(tokens, width),
                _picks(tokens, width),
                _moves(tokens, width),
            ]
    many = [_product(_SMALLEST, TOKENS[0], precision, 8 * _COPIES) for precision in ("fp32", "int8")]
    return [*found, *many, _adds(1, 8, 1), _adds(1, 8, 16 * _CHAIN)]


def _product(sizes: tuple[int, int], tokens: int, precision: str, copies: int = _COPIES) -> Probe:
    """Several products, added up: an output of a graph costs microseconds, so there is one."""
    (inputs, outputs), random = sizes, np.random.default_rng(0)
    chain, total = _Chain(tokens, inputs), None
    for _ in range(copies):
        chain.end = chain.x
        chain.add("Add", random.normal(size=inputs).astype(np.float32))
        chain.add("MatMul", random.normal(0.0, inputs**-0.5, sizes).astype(np.float32))
        total = chain.end if total is None else chain.add("Add", total)
    graph = chain.model()
    if precision == "int8":
        products = [node.name for node in graph.graph if node.op_type == "MatMul" and node.name is not None]
        graph = apply_precision(graph, "int8", nodes=products)
    takes = {"node": 3 * copies - 1, "element": tokens * (copies * inputs + (copies - 1) * outputs)}
    name = f"{precision} {inputs} x {outputs}, {tokens} tokens"
    return Probe(name, graph, tokens, inputs, takes, [sizes] * copies, precision)


def _adds(tokens: int, width: int, count: int) -> Probe:
    chain = _Chain(tokens, width)
    for _ in range(count):
        chain.add("Add", chain.x)
    return Probe(f"add {count}", chain.model(), tokens, width, {"node": count, "element": count * tokens * width})


def _concat(tokens: int, width: int) -> Probe:
    """Cut in two and join, as layers whose kept features lie apart do."""
    chain, half = _Chain(tokens, width), width // 2
    for _ in range(_CHAIN // 3):
        whole = chain.end
        bounds = [np.array([number]) for number in (0, half, width)]
        axis = np.array([-1])
        second = chain.add("Slice", bounds[1], bounds[2], axis)
        chain.end = whole
        chain.add("Slice", bounds[0], bounds[1], axis)
        chain.add("Concat", second, axis=-1)
    takes = {"node": _CHAIN, "element": _CHAIN // 3 * 2 * tokens * width}
    return Probe("slice, concat", chain.model(), tokens, width, takes)


def _picks(tokens: int, width: int) -> Probe:
    chain, places = _Chain(tokens, width), np.random.default_rng(0).permutation(width)
    for _ in range(2):
        chain.add("Gather", places, axis=-1)
    return Probe("gather", chain.model(), tokens, width, {"node": 2, "gather": 2 * tokens * width})


def _moves(tokens: int, width: int) -> Probe:
    """Pick features as rows: transposed, gathered on the first axis, and transposed back."""
    chain, places = _Chain(tokens, width), np.random.default_rng(0).permutation(width)
    for _ in range(2):
        chain.add("Transpose", perm=[1, 0])
        chain.add("Gather", places, axis=0)
        chain.add("Transpose", perm=[1, 0])
    return Probe("transpose, gather", chain.model(), tokens, width, {"node": 6, "move": 6 * tokens * width})


class _Chain:
    """Nodes one behind the other; the last output is `end`, and the graph's."""

    def __init__(self, tokens: int, width: int) -> None:
        self.x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([tokens, width]))
        self.end = self.x
        self._nodes, self._stored = list[ir.Node](), list[ir.Value]()

    def add(self, op_type: str, *others: ir.Value | Array, **attributes: int | list[int]) -> ir.Value:
        """Put a node at the end, whose first input is the end so far."""
        inputs = [self.end, *(other if isinstance(other, ir.Value) else self._constant(other) for other in others)]
        node = ir.node(op_type, inputs, attributes, name=f"node_{len(self._nodes)}")
        self._nodes.append(node)
        self.end = node.outputs[0]
        self.end.name = f"value_{len(self._nodes)}"
        self.end.type = self.x.type
        return self.end

    def model(self) -> ir.Model:
        """Return the graph."""
        graph = ir.Graph([self.x], [self.end], nodes=self._nodes, initializers=self._stored, opset_imports={"": 23})
        graph.name = "probe"
        return ir.Model(graph, ir_version=11)

    def _constant(self, array: Array) -> ir.Value:
        tensor = ir.tensor(array, name=f"constant_{len(self._stored)}")
        shape = ir.Shape(array.shape)
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self._stored.append(value)
        return value
