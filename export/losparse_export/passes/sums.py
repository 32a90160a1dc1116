"""Sums of products become chains of Gemm, each of which adds what stands before it: no node only adds.

    MatMul(a, A) + bias                  ->  Gemm(a, A, bias)
    MatMul(a, A) + MatMul(b, B) + r      ->  Gemm(a, A, Gemm(b, B, r))

and where r is the residual stream, a LayerNormalization's output, the layer's bias moves into that normalisation's own
shift, and what else reads it takes the shift off again in its own bias:

    LN(scale, shift) = x;  x -> MatMul(W) + c;  MatMul(a, A) + bias + x
    LN(scale, shift + bias) = x';  x' -> MatMul(W) + (c - bias W);  Gemm(a, A, x')

A Gemm starts from its third input anyway, so adding it there costs nothing, while an Add reads and writes every number
once more. Products marked for another precision than fp32 stay MatMul with their bias behind them, which is the form
that is quantised. The order of summation changes: equal to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..graph.constants import add_constant, constant_matrix, constant_vector, derived_name, new_node, replace_value
from ..graph.marks import SHIFTED, inherit, mark_kind, mark_wanted, marks_of
from ..graph.node import Array


class SumsPass(ir.passes.InPlacePass):
    """Rewrites every sum on (tokens, features) that holds a product with a constant matrix."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        graph, changed = model.graph, False
        for node in tuple(graph):
            if node.graph is None or not _is_root(node):
                continue
            terms = _collect(node)
            if not terms.products:
                continue
            if terms.biases and len(terms.others) == 1 and _move_bias(graph, terms):
                terms.biases = []
            _rewrite(graph, node, terms)
            changed = True
        return ir.passes.PassResult(model, changed)


@dataclass
class _Terms:
    """What a sum adds up."""

    width: int
    products: list[ir.Node] = field(default_factory=list)  # fp32
    marked: list[ir.Node] = field(default_factory=list)  # for another precision
    others: list[ir.Value] = field(default_factory=list)
    biases: list[ir.Value] = field(default_factory=list)
    adds: list[ir.Node] = field(default_factory=list)


def _is_sum(node: ir.Node | None) -> bool:
    """Tell whether a node adds on (tokens, features)."""
    return node is not None and (node.domain, node.op_type) == ("", "Add") and _width(node.outputs[0]) is not None


def _width(value: ir.Value | None) -> int | None:
    """Return the features of a (tokens, features) value."""
    if value is None or value.shape is None or len(value.shape) != 2 or isinstance(value.shape[0], int):
        return None
    last = value.shape[1]
    return last if isinstance(last, int) else None


def _is_root(node: ir.Node) -> bool:
    """Tell whether a node is a sum that is not itself a term of another one."""
    if not _is_sum(node):
        return False
    uses = list(node.outputs[0].uses())
    return not (len(uses) == 1 and _is_sum(uses[0][0]) and not node.outputs[0].is_graph_output())


def _is_product(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or (node.domain, node.op_type) != ("", "MatMul") or len(list(value.uses())) != 1:
        return False
    if _width(node.inputs[0]) is None:  # one row for all tokens, say: a Gemm does not repeat it
        return False
    return constant_matrix(node.inputs[1]) is not None and not value.is_graph_output()


def _collect(root: ir.Node) -> _Terms:
    terms = _Terms(_width(root.outputs[0]) or 0)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        terms.adds.append(node)
        for value in node.inputs:
            assert value is not None, "Add has two inputs"
            inner = value.producer()
            if constant_vector(value, terms.width) is not None:
                terms.biases.append(value)
            elif inner is not None and _is_sum(inner) and len(list(value.uses())) == 1 and _same(value, terms):
                waiting.append(inner)
            elif inner is not None and _is_product(value):
                (terms.marked if marks_of(inner).converted else terms.products).append(inner)
            else:
                terms.others.append(value)
    return terms


def _same(value: ir.Value, terms: _Terms) -> bool:
    return _width(value) == terms.width and not value.is_graph_output()


def _rewrite(graph: ir.Graph, root: ir.Node, terms: _Terms) -> None:
    """Write the sum anew: marked products with the bias behind them, then other terms, then the chain of Gemm."""
    old = root.outputs[0]

    def add(a: ir.Value | None, b: ir.Value) -> ir.Value:
        return b if a is None else new_node(graph, root, "Add", [a, b], like=old, scope=root)

    bias = _one_bias(graph, terms, _dtype(old))
    total: ir.Value | None = None
    behind: list[ir.Value] = []
    if terms.marked:
        total = terms.marked[0].outputs[0]
        for value in [*([] if bias is None else [bias]), *(p.outputs[0] for p in terms.marked[1:]), *terms.others]:
            total = add(total, value)
    elif bias is not None:
        total, behind = bias, terms.others  # the bias goes into the first Gemm for nothing
    else:
        for value in sorted(terms.others, key=lambda value: _width(value) != terms.width):
            total = add(total, value)
    for product in reversed(terms.products):
        inputs = [product.inputs[0], product.inputs[1], *([] if total is None else [total])]
        total = new_node(graph, root, "Gemm", inputs, like=old, scope=product)
    for value in behind:
        total = add(total, value)
    assert total is not None, "the sum had a product"
    replace_value(old, total)
    last = total.producer()
    if last is not None and terms.others:
        mark_kind(last, SHIFTED)  # more than the layer's own output
    for node in [*terms.adds, *terms.products]:
        graph.remove(node, safe=True)


def _bias_sum(terms: _Terms) -> Array:
    """Add up the biases in double precision; (width,)."""
    vectors = [constant_vector(value, terms.width) for value in terms.biases]
    return np.asarray(np.sum([v for v in vectors if v is not None], axis=0, dtype=np.float64))


def _one_bias(graph: ir.Graph, terms: _Terms, dtype: np.dtype[np.generic]) -> ir.Value | None:
    if len(terms.biases) < 2:
        return terms.biases[0] if terms.biases else None
    return add_constant(graph, derived_name(terms.biases[0], "sum"), _bias_sum(terms).astype(dtype))


def _dtype(value: ir.Value) -> np.dtype[np.generic]:
    return np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()


def _move_bias(graph: ir.Graph, terms: _Terms) -> bool:
    """Move the bias of a sum with the residual stream into the normalisation that gives that stream."""
    stream, bias = terms.others[0], _bias_sum(terms)
    norm = stream.producer()
    if norm is None or norm.op_type != "LayerNormalization" or stream.is_graph_output():
        return False
    uses = [(user, index) for user, index in stream.uses() if user not in terms.adds]
    readers = [user for user, _ in uses]
    own = any(user in terms.products or user in terms.marked for user in readers)
    if own or not all(index == 0 and _takes_shift(user, stream) for user, index in uses):
        return False
    shift = norm.inputs[2] if len(norm.inputs) > 2 else None
    old = constant_vector(shift, terms.width) if shift is not None else np.zeros(terms.width)
    scale = norm.inputs[1]
    if old is None or scale is None:
        return False
    name = derived_name(shift or scale, "shifted")
    moved = add_constant(graph, name, (old + bias).astype(_dtype(stream)))
    mark_kind(norm, SHIFTED)
    norm.resize_inputs(3)
    norm.replace_input_with(2, moved)
    for reader in readers:
        _take_off(graph, reader, bias)
    return True


def _takes_shift(node: ir.Node, stream: ir.Value) -> bool:
    """Tell whether a reader is a product whose own bias can take the shift off; (tokens, features) only."""
    if node.outputs[0].is_graph_output():
        return False
    if (node.domain, node.op_type) == ("", "MatMul"):
        return node.inputs[0] is stream and constant_matrix(node.inputs[1]) is not None
    if (node.domain, node.op_type) != ("", "Gemm") or node.inputs[0] is not stream:
        return False
    return constant_matrix(node.inputs[1]) is not None and not {"transA", "transB", "alpha", "beta"} & set(
        node.attributes
    )


def _take_off(graph: ir.Graph, node: ir.Node, bias: Array) -> None:
    weight = constant_matrix(node.inputs[1])
    assert weight is not None and node.inputs[1] is not None
    correction = -(bias @ weight.astype(np.float64))  # (out,)
    out = node.outputs[0]
    name = derived_name(node.inputs[1], "shift")
    if node.op_type == "Gemm" and len(node.inputs) > 2 and constant_vector(node.inputs[2], len(correction)) is not None:
        old = constant_vector(node.inputs[2], len(correction))
        assert old is not None
        node.replace_input_with(2, add_constant(graph, name, (old + correction).astype(_dtype(out))))
        return
    uses = list(out.uses())
    adder = uses[0][0] if len(uses) == 1 and _is_sum(uses[0][0]) else None
    if adder is not None:
        place = 1 - uses[0][1]
        vector = constant_vector(adder.inputs[place], len(correction))
        if vector is not None:
            adder.replace_input_with(place, add_constant(graph, name, (vector + correction).astype(_dtype(out))))
            return
    constant = add_constant(graph, name, correction.astype(_dtype(out)))
    # The product may be marked for quantising, which is not for a sum.
    added = inherit(ir.Node("", "Add", [out, constant]), node)
    mark_wanted(added, marks_of(node).wanted)
    added.outputs[0].type, added.outputs[0].shape = out.type, out.shape
    graph.insert_after(node, added)
    for user, index in uses:
        user.replace_input_with(index, added.outputs[0])
