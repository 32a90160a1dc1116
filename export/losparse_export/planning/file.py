"""What a plan's file may say, field by field; `plan` makes a `Plan` of it, and shows one."""

from __future__ import annotations

from typing import Annotated, Literal

from losparse.errors import LosparseError
from losparse.layers.spec import PLAN_KEYS, LayerSpec
from losparse.validation import AnyText, Flag, NotEmpty, Numeric, OneOf, Says, checked

from ..costs import Call, Traffic
from ..graph.layer import Order, PlannedLayer
from ..passes.fold import Fold
from ..target import TARGETS

FORMAT = 3
# Of plans for one text at a time on one thread of the CPU: "tokens" says all of them, and older versions read it.
FORMAT_OF_TOKENS = 2

# Numbers of a plan are written by `Plan.to_dict`, or edited by people who see them: a text is none of them.
_Size = Annotated[int, Numeric(least=0, texts=False)]
_Count = Annotated[int, Numeric(least=1, texts=False)]
_Names = Annotated[tuple[AnyText, ...], Says("a list of layer names")]
# What any target has: which of them a plan is for, and whether that has the form, is seen when it is carried out.
_Form = Annotated[str, OneOf(lambda: list(dict.fromkeys(form.NAME for t in TARGETS.values() for form in t.lowerings)))]
_Precision = Annotated[str, OneOf(lambda: list(dict.fromkeys(name for t in TARGETS.values() for name in t.plans)))]
_Side = Literal["out", "in"]


@checked
class OrderEntry:
    """How one side of a layer was put in order; see `graph.layer.Order`.

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
class NarrowedEntry:
    """What is left of a layer in the graph, where features that nobody needs were left out; see `passes.narrow`.

    Attributes:
        shape: rows and columns that are left.
        rank: inner width of the low-rank part.
        kept: rows or columns of the sparse part that are left.
        pivots: the side whose pivots are stored; null for plain factors.
    """

    shape: Annotated[tuple[_Size, _Size], Says("[out, in], two whole numbers")]
    rank: _Size
    kept: _Size
    pivots: _Side | None = None


def narrowed_sizes(spec: LayerSpec) -> dict[str, object]:
    """Return what a `NarrowedEntry` says of a layer's sizes in the graph."""
    sizes = spec.to_plan()
    return {key: sizes[key] for key in ("shape", "rank", "kept", "pivots")}


@checked
class LayerEntry:
    """What becomes of one layer, and its sizes, which `LayerSpec.to_plan` writes and `LayerSpec.from_plan` reads.

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
        shared: whether the model stores the right factor with another layer; null where the plan does not say, and the
            rank may then be any that a shared factor has.
        narrowed: what is left of the layer in the graph; null where that is all.
    """

    lowering: _Form
    precision: _Precision
    reason: AnyText
    refused: Annotated[dict[str, AnyText], Says("a table of reasons, by form")]
    shape: Annotated[tuple[_Size, _Size], Says("[out, in], two whole numbers")]
    rank: _Size
    kept: _Size
    axis: _Side
    order: OrderEntry | None
    pivots: _Side | None = None
    shared: Flag | None = None
    narrowed: NarrowedEntry | None = None

    def to_spec(self, source: str) -> PlannedLayer:
        """Return the layer's sizes, and how its features lie.

        Raises:
            LosparseError: the sizes do not go together; `source` is what the message calls the layer.
        """
        order = None if self.order is None else self.order.to_order()
        sizes = {key: getattr(self, key) for key in PLAN_KEYS}
        try:
            whole = LayerSpec.from_plan(sizes)
            if self.narrowed is None:
                return PlannedLayer.of(whole, order)
            return PlannedLayer.of(LayerSpec.from_plan({**sizes, **vars(self.narrowed)}), order, whole)
        except LosparseError as error:
            raise LosparseError(f"{source}: {error}") from None


@checked
class FoldEntry:
    """One list of features and what became of it; see `passes.fold.Fold`.

    Attributes:
        writers: layers that write the features.
        readers: layers that read them; none for queries and keys, which meet in the attention.
        blocks: heads, or 1.
        refused: why the features stay where they are; null where they are put in order. May be edited.
        dropped: how many of them are left out of the graph. May be edited to 0: all stay.
        dropped_blocks: how many heads go with them.
    """

    writers: _Names
    readers: _Names
    blocks: _Size
    refused: AnyText | None
    dropped: _Size = 0
    dropped_blocks: _Size = 0

    def to_fold(self) -> Fold:
        """Return the fold."""
        return Fold(self.writers, self.readers, self.blocks, self.refused, self.dropped, self.dropped_blocks)


@checked
class CallEntry:
    """One call that the plan is made for; see `costs.Call`.

    Attributes:
        batch: texts in a run.
        length: tokens in a text.
        past: tokens a text has had before.
        threads: of onnxruntime, inside one operator.
        weight: how often the call comes, in any unit.
    """

    batch: _Count
    length: _Count
    past: _Size
    threads: _Count
    weight: Annotated[float, Numeric(above=0, texts=False)]

    def to_call(self) -> Call:
        """Return the call."""
        return Call(self.batch, self.length, self.past, self.threads)


@checked
class PlanFile:
    """The chosen form of every factored layer.

    Attributes:
        format: of the file.
        target: name of the machine the plan is made for.
        calls: the plan is made for.
        precision: of the products outside the layers.
        folds: features put in another order, and those that were not, with the reason.
        layers: by qualified name.
    """

    format: Literal[3]
    target: Annotated[str, NotEmpty()]
    calls: tuple[CallEntry, ...]
    precision: _Precision
    folds: tuple[FoldEntry, ...]
    layers: dict[str, LayerEntry]

    def to_traffic(self) -> Traffic:
        """Return the calls.

        Raises:
            LosparseError: there is none, one comes twice, or one is too large.
        """
        return Traffic(tuple(call.to_call() for call in self.calls), tuple(call.weight for call in self.calls))


@checked
class PlanOfTokens:
    """A plan for one text at a time on one thread of the CPU.

    Attributes:
        format: of the file.
        tokens: of the text.
        precision: of the products outside the layers.
        folds: features put in another order, and those that were not, with the reason.
        layers: by qualified name.
    """

    format: Literal[2]
    tokens: _Count
    precision: _Precision
    folds: tuple[FoldEntry, ...]
    layers: dict[str, LayerEntry]

    def to_traffic(self) -> Traffic:
        """Return the call.

        Raises:
            LosparseError: it is too large.
        """
        return Traffic.of(Call(length=self.tokens))
