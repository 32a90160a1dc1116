"""What is known of a node beside what it computes: the module it came from, and what passes note for those behind them.

It travels with the node in memory, and never into a file. How a node's output differs from what its PyTorch module
returns becomes part of the node's name at the end (`naming`), so that whoever compares the two knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from losparse.layers.spec import LayerSpec

from .layer import Order

# Metadata key of a node: the qualified name of the PyTorch module it came from. Dropped before the model is written.
SCOPE = "losparse.scope"

# How the output of a node differs from its module's: the features stand in another order; a constant vector or the
# residual stream was added; the node computes for several modules at once, so that nobody may take it for one of them;
# features that nobody reads, or that are constant, are left out, and the others may stand in another order.
REORDERED, SHIFTED, SHARED, NARROWED = "reordered", "shifted", "shared", "narrowed"

_KEY = "losparse.marks"


@dataclass(frozen=True)
class Marks:
    """What is noted on one node.

    Attributes:
        kinds: how its output differs from its module's, in the order in which that happened.
        wanted: the precision that the plan wants of a product's layer. Passes give it on, and join no two products of
            which the plan wants different ones.
        converted: the precision that a product is to be converted to; None for none.
        order: how one side of a factored layer was put in order; None where nothing was.
        whole: the sizes of a factored layer as the model has it; None where nothing was left out.
    """

    kinds: tuple[str, ...] = ()
    wanted: str | None = None
    converted: str | None = None
    order: Order | None = None
    whole: LayerSpec | None = None


def marks_of(node: ir.Node) -> Marks:
    """Return what is noted on a node."""
    found = node.meta.get(_KEY)
    return found if isinstance(found, Marks) else Marks()


def put_marks(node: ir.Node, marks: Marks) -> ir.Node:
    """Note something in place of what was noted; returns the node."""
    node.meta[_KEY] = marks
    return node


def scope_of(node: ir.Node) -> str:
    """Return the qualified name of the module a node came from; "" for nodes between modules."""
    return node.metadata_props.get(SCOPE, "")


def mark_kind(node: ir.Node, kind: str) -> None:
    """Note that a node's output is `REORDERED`, `NARROWED` or `SHIFTED`; the first of them counts."""
    marks = marks_of(node)
    if scope_of(node) and (not marks.kinds or marks.kinds[-1] == SHARED):
        put_marks(node, replace(marks, kinds=(*marks.kinds, kind)))


def mark_shared(node: ir.Node) -> None:
    """Note that a node computes for several modules, whatever else was noted of its output."""
    marks = marks_of(node)
    if scope_of(node):
        put_marks(node, replace(marks, kinds=(*marks.kinds[:-1], SHARED)))


def mark_wanted(node: ir.Node, precision: str | None) -> None:
    """Note the precision that the plan wants of a product."""
    put_marks(node, replace(marks_of(node), wanted=precision))


def mark_converted(node: ir.Node, precision: str) -> None:
    """Note that a product is to be converted."""
    put_marks(node, replace(marks_of(node), converted=precision))


def mark_order(node: ir.Node, order: Order | None) -> None:
    """Note how one side of a factored layer was put in order."""
    put_marks(node, replace(marks_of(node), order=order))


def mark_whole(node: ir.Node, whole: LayerSpec) -> None:
    """Note the sizes that a factored layer had before anything was left out; the first ones count."""
    marks = marks_of(node)
    if marks.whole is None:
        put_marks(node, replace(marks, whole=whole))


def inherit(node: ir.Node, source: ir.Node) -> ir.Node:
    """Take over a node's module and how its output differs from that, and nothing else; returns the first node."""
    node.metadata_props[SCOPE] = scope_of(source)
    return put_marks(node, Marks(kinds=marks_of(source).kinds))
