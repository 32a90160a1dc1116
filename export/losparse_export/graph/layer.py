"""A factored layer as plans and forms see it: its sizes, and how its features lie in the graph. Loads no onnx."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields

from losparse.layers.spec import LayerSpec


@dataclass(frozen=True)
class Order:
    """How the fold pass laid out one side of a layer; see `passes.fold`.

    Attributes:
        side: "out" where the layer's outputs were put in order, "in" where its inputs were.
        blocks: equal parts of that side, heads or 1, in which the kept groups lie alike; 0 where every part keeps
            others, so that they lie in no regular way.
        first: where they begin in every part.
        pivots: whether the `rank` groups right behind the kept ones span the low-rank part of all others.
        split: whether every layer at that side has its kept groups in the same first places, so that kept and other
            features can stay two tensors all the way.
    """

    side: str
    blocks: int = 1
    first: int = 0
    pivots: bool = False
    split: bool = False


@dataclass(frozen=True)
class PlannedLayer(LayerSpec):
    """Sizes of a layer, and how one of its sides was put in order.

    `bias` is always True: every form adds the bias alike, so a plan does not say whether there is one. Forms do not
    depend on `shares_v` either: equal products are merged later.

    Attributes:
        order: None where the kept groups lie anywhere.
        whole: the sizes as the model has them, where features that nobody needs were left out of the graph
            (`passes.narrow`); None where nothing was. Forms do not depend on it.
    """

    order: Order | None = None
    whole: LayerSpec | None = field(default=None, compare=False)

    @classmethod
    def of(cls, spec: LayerSpec, order: Order | None = None, whole: LayerSpec | None = None) -> PlannedLayer:
        """Return a layer of these sizes, whose features lie so."""
        fields = {each.name: getattr(spec, each.name) for each in dataclass_fields(LayerSpec)}
        return cls(**{**fields, "bias": True}, order=order, whole=whole)

    @property
    def in_model(self) -> LayerSpec:
        """The sizes as the model has them."""
        return self if self.whole is None else self.whole

    @property
    def narrowed_words(self) -> str:
        """What is left of the layer in the graph, for behind a reason; "" where that is all."""
        whole = self.in_model
        if (whole.out_features, whole.in_features, whole.kept) == (self.out_features, self.in_features, self.kept):
            return ""
        if not (self.rank or self.kept):
            return "; nobody needs its weights"
        sizes = f"{self.out_features}x{self.in_features} of its {whole.out_features}x{whole.in_features}"
        return f"; narrowed: {sizes} are left, and nobody needs the others"
