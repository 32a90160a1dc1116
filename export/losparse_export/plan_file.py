"""What a plan's file may say, field by field; `plan` makes a `Plan` of it, and shows one."""

from __future__ import annotations

from typing import Annotated, Literal

from losparse.validation import Flag, Numeric, OneOf, Says, checked

from .graph.node import LayerShape, Order
from .lowerings import LOWERINGS
from .passes.fold import Fold

FORMAT = 2

# Numbers of a plan are written by `Plan.to_dict`, or edited by people who see them: a text is none of them.
_Size = Annotated[int, Numeric(least=0, texts=False)]
_Names = Annotated[tuple[str, ...], Says("a list of layer names")]
_Precision = Literal["fp32", "int8"]
_Side = Literal["out", "in"]


@checked
class OrderEntry:
    """How one side of a layer was put in order; see `graph.node.Order`.

    Attributes:
        side: "out" where the layer's outputs were put in order, "in" where its inputs were.
        blocks: equal parts of that side in which the kept groups lie alike; 0 where every part keeps others.
        first: where they begin in every part.
        pivots: whether the groups right behind the kept ones span the low-rank part of all others.
        split: whether every layer at that side has its kept groups in the same first places.
    """

    side: _Side
    blocks: _Size
    first: _Size
    pivots: Flag
    split: Flag

    def to_order(self) -> Order:
        """Return the order."""
        return Order(self.side, self.blocks, self.first, self.pivots, self.split)


@checked
class LayerEntry:
    """What becomes of one layer, and its sizes.

    Attributes:
        lowering: name of the chosen form; may be edited.
        precision: of the layer's products; may be edited in a plan for int8.
        reason: why that form.
        refused: why not, for every other form by name.
        shape: rows and columns of the layer's weight.
        rank: inner width of the low-rank part.
        kept: kept rows or columns of the sparse part.
        axis: "out" where rows are kept, "in" where columns are.
        order: how one side was put in order; null where the kept groups lie anywhere.
        pivots: the side whose pivots the model stores; null for plain factors.
        shared: whether the model stores the right factor with another layer.
    """

    lowering: Annotated[str, OneOf(lambda: [lowering.NAME for lowering in LOWERINGS])]
    precision: _Precision
    reason: str
    refused: Annotated[dict[str, str], Says("a table of reasons, by form")]
    shape: Annotated[tuple[_Size, _Size], Says("[out, in], two whole numbers")]
    rank: _Size
    kept: _Size
    axis: _Side
    order: OrderEntry | None
    pivots: _Side | None = None
    shared: Flag = False

    def to_shape(self) -> LayerShape:
        """Return the layer's sizes."""
        order = None if self.order is None else self.order.to_order()
        return LayerShape(*self.shape, self.rank, self.kept, self.axis, order, self.pivots, self.shared)


@checked
class FoldEntry:
    """One list of features and what became of it; see `passes.fold.Fold`.

    Attributes:
        writers: layers that write the features.
        readers: layers that read them; none for queries and keys, which meet in the attention.
        blocks: heads, or 1.
        refused: why the features stay where they are; null where they are put in order. May be edited.
    """

    writers: _Names
    readers: _Names
    blocks: _Size
    refused: str | None

    def to_fold(self) -> Fold:
        """Return the fold."""
        return Fold(self.writers, self.readers, self.blocks, self.refused)


@checked
class PlanFile:
    """The chosen form of every factored layer.

    Attributes:
        format: of the file.
        tokens: batch x sequence of the calls the plan is made for.
        precision: of the products outside the layers.
        folds: features put in another order, and those that were not, with the reason.
        layers: by qualified name.
    """

    format: Literal[2]
    tokens: Annotated[int, Numeric(least=1, texts=False)]
    precision: _Precision
    folds: tuple[FoldEntry, ...]
    layers: dict[str, LayerEntry]
