"""What a factored layer is, in sizes: the one description that layers, checkpoints, plans and graphs share.

It loads no torch and no onnx, so whoever only reads a folder or plans an export needs neither.

    in config.json     {"in": 384, "out": 768, "rank": 10, "kept": 48, "axis": "out", "bias": true, "pivots": "out"}
    on a graph's node  axis="out" rank=10 kept_count=48 in_features=384 out_features=768 pivot_side="out"
    in a plan          {"shape": [768, 384], "rank": 10, "kept": 48, "axis": "out", "pivots": "out", "shared": false}
    in words           768x384, rank 10, kept 48, axis 'out'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from ..errors import LosparseError, shown

Axis = Literal["out", "in"]
PivotSide = Literal["out", "in"]

PARTS = ("u", "v", "sparse", "kept", "pivots", "bias")
"""Tensors of a factored layer, as they are called in the weights."""

PLAN_KEYS = ("shape", "rank", "kept", "axis", "pivots", "shared")
"""Keys of a layer's sizes in a plan, in the order in which they are written."""

LARGEST_SIZE = 2**31 - 1
"""What a number of a configuration may be at most."""
COPY_AGAIN = "copy the folder again, or save the model again with save_pretrained"
"""The way out of a configuration that is damaged."""

_SIDES = ("out", "in")


@dataclass(frozen=True)
class LayerSpec:
    """Sizes of one factored layer, and how its low-rank part is stored.

    Attributes:
        out_features: rows of the (out, in) weight.
        in_features: its columns.
        rank: inner width of the low-rank part; 0 for none.
        kept: kept rows (`axis="out"`) or columns (`axis="in"`) of the sparse part; 0 for none.
        axis: "out" or "in".
        bias: whether the layer has one.
        pivot_side: the side whose pivots the layer stores, "out" or "in"; None for plain factors.
        shares_v: whether `v` is stored with another layer that reads the same input, its owner.
        v_of: qualified name of that owner where it is known: a checkpoint says it, a graph does not.
    """

    out_features: int
    in_features: int
    rank: int
    kept: int
    axis: Axis = "out"
    bias: bool = True
    pivot_side: PivotSide | None = None
    shares_v: bool = False
    v_of: str | None = None

    def __post_init__(self) -> None:
        """Check the sizes against each other.

        Raises:
            LosparseError: a size is out of range, or the axis or the side of the pivots is unknown.
        """
        size = f"{shown(self.out_features)}x{shown(self.in_features)}"
        if self.axis not in _SIDES:
            raise LosparseError(f"axis must be 'out' (rows) or 'in' (columns), got {shown(self.axis)}")
        if self.in_features < 1 or self.out_features < 1:
            raise LosparseError(f"a linear layer needs at least one input and one output, got {size}")
        if not 0 <= self.rank <= self.largest_rank:
            raise LosparseError(
                f"rank must be in 0..{shown(self.largest_rank)} for a {size} layer, got {shown(self.rank)}"
            )
        if not 0 <= self.kept <= self.groups:
            raise LosparseError(f"kept must be in 0..{shown(self.groups)} for a {size} layer, got {shown(self.kept)}")
        if self.pivot_side not in (None, *_SIDES):
            raise LosparseError(
                f"pivot_side must be 'out' (outputs), 'in' (inputs) or None, got {shown(self.pivot_side)}"
            )

    @classmethod
    def dense(cls, out_features: int, in_features: int, *, bias: bool = True) -> LayerSpec:
        """Return the spec of a layer that stays as it was: every row is kept."""
        return cls(out_features, in_features, rank=0, kept=out_features, bias=bias)

    @property
    def is_dense(self) -> bool:
        """Whether everything is kept."""
        return self.rank == 0 and self.kept == self.groups

    @property
    def largest_rank(self) -> int:
        """The largest rank a layer of this size can have; one that shares `v` has its owner's, which may be wider."""
        return self.in_features if self.shares_v else min(self.in_features, self.out_features)

    @property
    def groups(self) -> int:
        """Rows or columns, as the axis says, of which `kept` are kept."""
        return self.out_features if self.axis == "out" else self.in_features

    @property
    def words(self) -> str:
        """The sizes in words, without how the low-rank part is stored."""
        return f"{self.out_features}x{self.in_features}, rank {self.rank}, kept {self.kept}, axis {self.axis!r}"

    @property
    def sparse_shape(self) -> tuple[int, int]:
        """Shape of `sparse`, also where it is empty: (kept, in) or (out, kept)."""
        return (self.kept, self.in_features) if self.axis == "out" else (self.out_features, self.kept)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor that the layer stores, by part; empty ones are not stored."""
        identity_out, identity_in = (self.rank if self.pivot_side == side else 0 for side in _SIDES)
        shapes: dict[str, tuple[int, ...]] = {
            "u": (self.out_features - identity_out, self.rank),
            "v": (0 if self.shares_v else self.rank, self.in_features - identity_in),
            "sparse": self.sparse_shape,
            "kept": (self.kept,),
            "pivots": (self.rank if self.pivot_side else 0,),
            "bias": (self.out_features if self.bias else 0,),
        }
        return {part: shape for part, shape in shapes.items() if 0 not in shape}

    @property
    def parameters(self) -> int:
        """Parameters that the budget counts: u, v and sparse as stored; neither indices nor bias."""
        return sum(math.prod(shape) for part, shape in self.shapes().items() if part in ("u", "v", "sparse"))

    @property
    def dense_parameters(self) -> int:
        """Parameters of the dense weight, and multiply-adds per token of the product with it."""
        return self.out_features * self.in_features

    def to_entry(self) -> dict[str, Any]:
        """Return the layer's entry in the `quantization_config` of config.json."""
        entry = {key: getattr(self, field) for key, field in _FIELDS.items()}
        return entry if self.v_of is None else {**entry, "v_of": self.v_of}

    @classmethod
    def from_entry(cls, name: str, entry: Any) -> LayerSpec:
        """Read a layer's entry in the `quantization_config` of config.json.

        Args:
            name: qualified name of the layer, for messages.
            entry: what `to_entry` returned, of any version; keys that say nothing of sizes are passed over.

        Raises:
            LosparseError: a field is missing, of another type or out of range.
        """
        broken = f"quantization_config entry of {name!r} is malformed"
        if not isinstance(entry, Mapping):
            raise LosparseError(f"{broken}: it must be an object, got {shown(entry)}; {COPY_AGAIN}")
        for key, (wanted, fits) in _RULES.items():
            if key not in entry and key not in _MAY_LACK:
                raise LosparseError(f"{broken}: '{key}' is missing; {COPY_AGAIN}")
            if not fits(entry.get(key)):
                raise LosparseError(f"{broken}: '{key}' must be {wanted}, got {shown(entry.get(key))}; {COPY_AGAIN}")
        values: dict[str, Any] = {field: entry.get(key) for key, field in _FIELDS.items()}
        try:
            return cls(**values, shares_v=entry.get("v_of") is not None, v_of=entry.get("v_of"))
        except LosparseError:
            size = f"{entry['out']}x{entry['in']}"
            raise LosparseError(
                f"{broken}: rank {entry['rank']} or kept {entry['kept']} exceeds its size {size}; {COPY_AGAIN}"
            ) from None

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes of the layer's node in a traced graph; whether there is a bias its inputs say."""
        return {
            "axis": self.axis,
            "rank": self.rank,
            "kept_count": self.kept,
            "in_features": self.in_features,
            "out_features": self.out_features,
            **({} if self.pivot_side is None else {"pivot_side": self.pivot_side}),
            **({"shared_v": 1} if self.shares_v else {}),
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, int | str], *, bias: bool) -> LayerSpec:
        """Read the attributes of a layer's node, as `to_attributes` wrote them; others are passed over.

        Args:
            attributes: by name.
            bias: whether the node has an input for it.
        """
        return cls(
            out_features=int(attributes["out_features"]),
            in_features=int(attributes["in_features"]),
            rank=int(attributes["rank"]),
            kept=int(attributes["kept_count"]),
            axis=cast(Axis, attributes["axis"]),
            bias=bias,
            pivot_side=cast(PivotSide | None, attributes.get("pivot_side")),
            shares_v="shared_v" in attributes,
        )

    def to_plan(self) -> dict[str, Any]:
        """Return the layer's sizes as a plan has them; a plan does not say whether there is a bias."""
        shape = [self.out_features, self.in_features]
        values = (shape, self.rank, self.kept, self.axis, self.pivot_side, self.shares_v)
        return dict(zip(PLAN_KEYS, values, strict=True))

    @classmethod
    def from_plan(cls, entry: Mapping[str, Any]) -> LayerSpec:
        """Read a layer's sizes of a plan, as `to_plan` wrote them; the first writers had neither pivots nor shared.

        Where `shared` is missing, a layer shares its `v` if its rank is above what a layer with its own `v` can have.

        Args:
            entry: of the plan's file; other keys than `PLAN_KEYS` are passed over.

        Raises:
            LosparseError: a size is missing, of another type or out of range; it does not say of which layer.
        """
        shape = entry.get("shape")
        sizes = (
            [*shape, entry.get("rank"), entry.get("kept")]
            if isinstance(shape, list | tuple) and len(shape) == 2
            else []
        )
        if not sizes or not all(is_whole(size, 0) for size in sizes):
            raise LosparseError("shape must be [out, in], and it, rank and kept whole numbers >= 0")
        if entry.get("axis") not in _SIDES:
            raise LosparseError(f"axis must be 'out' or 'in', got {shown(entry.get('axis'))}")
        if entry.get("pivots") not in (None, *_SIDES):
            raise LosparseError(f"pivots must be 'out', 'in' or null, got {shown(entry['pivots'])}")
        out_features, in_features, rank, kept = sizes
        said = entry.get("shared")
        shared = rank > min(out_features, in_features) if said is None else said
        if not isinstance(shared, bool):
            raise LosparseError(f"shared must be true, false or null, got {shown(shared)}")
        side: PivotSide | None = entry.get("pivots")
        return cls(out_features, in_features, rank, kept, entry["axis"], False, side, shared)


# Keys of an entry in the order in which they are written, and the fields they are.
_FIELDS = {
    "in": "in_features",
    "out": "out_features",
    "rank": "rank",
    "kept": "kept",
    "axis": "axis",
    "bias": "bias",
    "pivots": "pivot_side",
}
_MAY_LACK = ("pivots", "v_of")  # of the first writers, or where there is nothing to say


def is_whole(value: Any, least: int, most: int = LARGEST_SIZE) -> bool:
    """Tell whether a value of a configuration is a whole number in a range; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_Rule = tuple[str, Callable[[Any], bool]]
_SIZE: _Rule = (f"a whole number in 1..{LARGEST_SIZE}", lambda value: is_whole(value, 1))
_COUNT: _Rule = (f"a whole number in 0..{LARGEST_SIZE}", lambda value: is_whole(value, 0))
# What a value of an entry must be: in words, and as a test.
_RULES: dict[str, _Rule] = {
    "in": _SIZE,
    "out": _SIZE,
    "rank": _COUNT,
    "kept": _COUNT,
    "axis": ("'out' or 'in'", lambda value: value in _SIDES),
    "bias": ("true or false", lambda value: isinstance(value, bool)),
    "pivots": ("'out', 'in' or null", lambda value: value in (None, *_SIDES)),
    "v_of": (
        "a text that is not empty, or null",
        lambda value: value is None or (isinstance(value, str) and bool(value)),
    ),
}
