"""Attention in the low-rank space: heads become as narrow as what is kept of them, plus the rank.

A folded query is [kept dimensions of the head | u_q p_q + b_q], with the few numbers p_q = v_q x that all heads share;
so is a key. What the others contribute to a score is

    (u_q p_q + b_q) . (u_k p_k + b_k) = p_k . (u_k^T (u_q p_q + b_q)) + (a number of the query alone)

and softmax does not see numbers of the query alone. So the key's other dimensions may be p_k itself, the same in every
head, and the query's are u_k^T (u_q p_q + b_q): `rank` dimensions instead of all the others. Values are averaged, and
an average of u_v p_v + b_v is u_v times the average of p_v, plus b_v: heads carry p_v, and the product behind attention
takes u_v into its weights.

    q (b, s, heads * width)              q' (b, s, heads * (kept + rank of k))
    k (b, s, heads * width)      ->      k' (b, s, heads * (kept + rank of k))
    v (b, s, heads * width)              v' (b, s, heads * (kept + rank of v))

Exact up to rounding. It saves two of the three second products, and attention on fewer dimensions. Where the plan wants
different precisions of the layers whose weights would be multiplied, their heads stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..costs import Costs
from ..graph.constants import add_constant, constant_matrix, constant_vector, derived_name, new_node, replace_value
from ..graph.marks import REORDERED, mark_kind, mark_wanted, marks_of
from ..graph.naming import place_of
from ..graph.node import Array


class ReduceAttentionPass(ir.passes.InPlacePass):
    """Narrows the heads of every Attention whose inputs are folded low-rank layers, where that saves enough."""

    def __init__(self, costs: Costs) -> None:
        """Take the costs of the machine, which say what is enough."""
        super().__init__()
        self.costs = costs

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        changed = False
        for node in tuple(model.graph):
            if (node.domain, node.op_type) == ("", "Attention") and "q_num_heads" in node.attributes:
                changed |= _reduce_scores(model.graph, node, self.costs.narrower)
                changed |= _reduce_values(model.graph, node, self.costs.narrower)
        return ir.passes.PassResult(model, changed)


@dataclass
class _Folded:
    """A value that a folded low-rank layer wrote: per head [kept | u p + bias].

    Attributes:
        kept: the kept dimensions of all heads; (tokens, heads * kept_width); None where nothing is kept.
        hidden: p; (tokens, rank).
        u: (heads, rank, other dimensions of a head).
        bias: (heads, other dimensions of a head).
        end: the last node: features on three axes, (batch, sequence, heads * width).
        product: the one with u.
    """

    kept: ir.Value | None
    hidden: ir.Value
    u: Array
    bias: Array
    kept_width: int
    end: ir.Node
    product: ir.Node

    @property
    def wanted(self) -> str | None:
        """The precision that the plan wants of the product."""
        return marks_of(self.product).wanted

    @property
    def rank(self) -> int:
        return int(self.u.shape[1])

    @property
    def width(self) -> int:
        return self.kept_width + int(self.u.shape[2])


def _read(value: ir.Value | None, heads: int) -> _Folded | None:
    """Recognise what `lowerings.folded` and `low_rank` write, behind the Reshape to three axes."""
    end = value.producer() if value is not None else None
    if end is None or end.op_type != "Reshape" or len(list(end.outputs[0].uses())) != 1:
        return None
    shape = end.inputs[1].producer() if end.inputs[1] is not None else None
    if shape is None or shape.op_type != "Concat" or end.outputs[0].shape is None:
        return None  # not a Reshape that `passes.flatten` wrote
    kept, rest = _parts(end.inputs[0])
    if rest is None or len(list(rest.uses())) != 1:
        return None
    product, bias = _affine(rest)
    weight = constant_matrix(product.inputs[1]) if product is not None else None
    hidden = product.inputs[0] if product is not None else None
    kept_features, features = 0 if kept is None else _features(kept), _features(rest)
    if product is None or weight is None or hidden is None or not features or features % heads or kept_features % heads:
        return None
    u = weight.reshape(weight.shape[0], heads, -1).transpose(1, 0, 2)
    vector = np.zeros(features) if bias is None else bias
    return _Folded(kept, hidden, u, vector.reshape(heads, -1), kept_features // heads, end, product)


def _parts(flat: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Return kept and other dimensions, or nothing and all of them."""
    joined = _before(flat, "Reshape")
    concat = joined.producer() if joined is not None else None
    if joined is None or concat is None or concat.op_type != "Concat" or len(list(joined.uses())) != 1:
        return None, flat
    if len(concat.inputs) != 2:
        return None, None
    return _before(concat.inputs[0], "Reshape"), _before(concat.inputs[1], "Reshape")


def _before(value: ir.Value | None, op_type: str) -> ir.Value | None:
    """Return the first input of the node of this type that writes a value nothing else reads."""
    node = value.producer() if value is not None else None
    if value is None or node is None or (node.domain, node.op_type) != ("", op_type):
        return None
    return node.inputs[0] if len(list(value.uses())) == 1 and not value.is_graph_output() else None


def _affine(value: ir.Value) -> tuple[ir.Node | None, Array | None]:
    """Return the product with a constant that writes a value, and the bias added to it."""
    node = value.producer()
    if node is not None and (node.domain, node.op_type) == ("", "Add") and _features(value):
        bias = constant_vector(node.inputs[1], _features(value))
        inner = node.inputs[0].producer() if node.inputs[0] is not None else None
        return (inner, bias) if bias is not None and inner is not None and inner.op_type == "MatMul" else (None, None)
    return (node, None) if node is not None and (node.domain, node.op_type) == ("", "MatMul") else (None, None)


def _features(value: ir.Value) -> int:
    last = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return last if isinstance(last, int) else 0


def _reduce_scores(graph: ir.Graph, node: ir.Node, least: float) -> bool:
    heads = node.attributes["q_num_heads"].as_int()
    # A soft cap bends every score, so what depends on the query alone no longer drops out of the softmax.
    cap = node.attributes.get("softcap")
    if cap is not None and cap.as_float() != 0.0:
        return False
    query, key = _read(node.inputs[0], heads), _read(node.inputs[1], heads)
    if query is None or key is None or node.attributes["kv_num_heads"].as_int() != heads:
        return False
    if query.wanted != key.wanted:
        return False
    width = query.kept_width + key.rank
    if query.kept_width != key.kept_width or query.width != key.width or width > (1 - least) * query.width:
        return False
    u_q, u_k = query.u.astype(np.float64), key.u.astype(np.float64)  # (heads, rank, others)
    weight = np.einsum("hqd,hkd->qhk", u_q, u_k).reshape(query.rank, -1)
    bias = np.einsum("hd,hkd->hk", query.bias.astype(np.float64), u_k).reshape(-1)
    rest = _product(graph, query, weight, bias)
    node.replace_input_with(0, _join(graph, query, rest, heads, key.rank))
    node.replace_input_with(1, _join(graph, key, _repeat(graph, key, heads), heads, key.rank))
    if "scale" not in node.attributes:  # the default is taken from the width, which is another one now
        node.attributes["scale"] = ir.AttrFloat32("scale", query.width**-0.5)
    return True


def _reduce_values(graph: ir.Graph, node: ir.Node, least: float) -> bool:
    heads = node.attributes["kv_num_heads"].as_int()
    value = _read(node.inputs[2], heads)
    if value is None or node.attributes["q_num_heads"].as_int() != heads:
        return False
    width = value.kept_width + value.rank
    flat = _only_reader(node.outputs[0], "Reshape")
    if flat is None or width > (1 - least) * value.width:
        return False
    readers = list(flat.outputs[0].uses())
    products = [
        r for r, place in readers if place == 0 and r.op_type == "MatMul" and constant_matrix(r.inputs[1]) is not None
    ]
    slices = [found for reader, _ in readers if (found := _kept_slice(reader, value)) is not None]
    if len(products) + len(slices) != len(readers) or flat.outputs[0].is_graph_output():
        return False
    if any(marks_of(product).wanted != value.wanted for product in products):
        return False
    node.replace_input_with(2, _join(graph, value, _repeat(graph, value, heads), heads, value.rank))
    _narrow(node.outputs[0], heads * width)
    mark_kind(node, REORDERED)
    sizes = add_constant(graph, f"flatten_{heads * width}_heads", np.array([-1, heads * width]))
    whole = new_node(graph, flat, "Reshape", [node.outputs[0], sizes], like=flat.outputs[0], scope=flat)
    _narrow(whole, heads * width)
    for product in products:
        _absorb(graph, product, whole, value, heads)
    for view in slices:
        view.replace_input_with(0, whole)
        old = view.inputs[1]
        assert old is not None and old.const_value is not None
        new = old.const_value.numpy().copy()
        new[-1] = width
        view.replace_input_with(1, add_constant(graph, derived_name(old, "narrow"), new))
        view.outputs[0].shape = None  # (tokens, heads, width); nothing reads it
    return True


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and uses[0][0].op_type == op_type and not value.is_graph_output() else None


def _kept_slice(node: ir.Node, value: _Folded) -> ir.Node | None:
    """Return a Reshape to (tokens, heads, width) that is read by a Slice of kept dimensions alone."""
    cut = _only_reader(node.outputs[0], "Slice") if node.op_type == "Reshape" else None
    sizes = node.inputs[1].const_value if cut is not None and node.inputs[1] is not None else None
    if cut is None or sizes is None or sizes.size != 3 or int(sizes.numpy()[-1]) != value.width:
        return None
    stop = cut.inputs[2].const_value if cut.inputs[2] is not None else None
    return node if stop is not None and int(stop.numpy().reshape(-1)[0]) <= value.kept_width else None


def _absorb(graph: ir.Graph, product: ir.Node, whole: ir.Value, value: _Folded, heads: int) -> None:
    """Take u_v and the bias of the values into a product behind attention."""
    matrix = constant_matrix(product.inputs[1])
    assert matrix is not None
    weight = matrix.astype(np.float64).reshape(heads, value.width, -1)
    kept, others = weight[:, : value.kept_width], weight[:, value.kept_width :]
    through = np.einsum("hrd,hdo->hro", value.u.astype(np.float64), others)
    narrow = np.concatenate([kept, through], axis=1).reshape(-1, weight.shape[2])
    constant = np.einsum("hd,hdo->o", value.bias.astype(np.float64), others)
    out, name = product.outputs[0], derived_name(product.inputs[1], "narrow")
    stored = add_constant(graph, name, narrow.astype(matrix.dtype))
    y = new_node(graph, product, "MatMul", [whole, stored], like=out, scope=product)
    if constant.any():
        shift = add_constant(graph, f"{name}_shift", constant.astype(matrix.dtype))
        y = new_node(graph, product, "Add", [y, shift], like=out, scope=product)
    replace_value(out, y)


def _product(graph: ir.Graph, query: _Folded, weight: Array, bias: Array) -> ir.Value:
    dtype = query.u.dtype
    base = place_of(query.end) or "attention"
    stored = add_constant(graph, f"{base}.scores_t", weight.astype(dtype))
    y = new_node(graph, query.end, "MatMul", [query.hidden, stored], like=query.hidden, scope=query.end)
    made = y.producer()
    if made is not None and query.wanted is not None:  # where heads are joined is no layer's own place
        mark_wanted(made, query.wanted)
    _narrow(y, weight.shape[1])
    if not bias.any():
        return y
    shift = add_constant(graph, f"{base}.scores_bias", bias.astype(dtype))
    return new_node(graph, query.end, "Add", [y, shift], like=y, scope=query.end)


def _repeat(graph: ir.Graph, side: _Folded, heads: int) -> ir.Value:
    """Give every head the same p; (tokens, rank) -> (tokens, heads, rank)."""
    apart = add_constant(graph, f"apart_{side.rank}", np.array([0, 1, side.rank]))
    repeats = add_constant(graph, f"repeat_{heads}", np.array([1, heads, 1]))
    one = new_node(graph, side.end, "Reshape", [side.hidden, apart], like=side.hidden, scope=side.end)
    one.shape = None
    many = new_node(graph, side.end, "Expand", [one, repeats], like=side.hidden, scope=side.end)
    many.shape = None
    return many


def _join(graph: ir.Graph, side: _Folded, rest: ir.Value, heads: int, rank: int) -> ir.Value:
    """Put kept and other dimensions side by side in every head, on three axes; (b, s, heads * (kept + rank))."""
    before, width = side.end, side.kept_width + rank

    def heads_apart(part: ir.Value, each: int) -> ir.Value:
        sizes = add_constant(graph, f"heads_{heads}_{each}", np.array([0, heads, each]))
        split = new_node(graph, before, "Reshape", [part, sizes], like=part, scope=before)
        split.shape = None
        return split

    parts = [] if side.kept is None else [heads_apart(side.kept, side.kept_width)]
    parts.append(rest if rest.shape is None else heads_apart(rest, rank))
    joined = parts[0]
    if len(parts) == 2:
        joined = new_node(graph, before, "Concat", parts, like=side.hidden, scope=before, axis=-1)
        joined.shape = None
    shape = _three_axes(graph, before, heads * width)
    whole = new_node(graph, before, "Reshape", [joined, shape], like=side.hidden, scope=before)
    whole.shape = before.outputs[0].shape
    _narrow(whole, heads * width)
    return whole


def _three_axes(graph: ir.Graph, end: ir.Node, width: int) -> ir.Value:
    """Return the shape (batch, sequence, width), from the one with another width that a Reshape uses."""
    concat = end.inputs[1].producer() if end.inputs[1] is not None else None
    assert concat is not None and concat.op_type == "Concat", "passes.flatten writes it so"
    last = add_constant(graph, f"unflatten_{width}_heads", np.array([width]))
    like = concat.outputs[0]
    return new_node(graph, end, "Concat", [concat.inputs[0], last], like=like, scope=concat, axis=0)


def _narrow(value: ir.Value, width: int) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([*value.shape.dims[:-1], width])
