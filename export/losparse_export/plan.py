"""The plan: for every factored layer the cheapest form that applies, and why each other one was not taken.

A plan is data. It is made from the sizes of the layers alone, goes through JSON and back, can be edited, and is
carried out by `lower_model`. In a file:

    {"format": 2, "tokens": 128, "precision": "int8",
     "folds": [{"writers": ["...value"], "readers": ["...output.dense"], "blocks": 12, "refused": null}, ...],
     "layers": {"encoder.layer.0.attention.self.query": {
        "lowering": "folded", "reason": "...", "refused": {"gather": "...", ...},
        "precision": "int8", "shape": [384, 384], "rank": 10, "kept": 48, "axis": "out", "pivots": null,
        "shared": false, "order": {"side": "out", "blocks": 12, "first": 0, "pivots": false, "split": false}}}}

A fold with a text in "refused" is not made; `passes.fold` says what folds are, and `edits` what may be edited. In an
int8 plan a layer's products are quantised where that is faster, and stay fp32 where its precision says so. "pivots"
says how the model stores the low-rank part ("out", "in", or null for plain factors), "shared" whether its right factor
is stored with another layer; both may be left out, since forms do not depend on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from losparse.errors import LosparseError
from losparse.validation import json_schema, read_as

from .graph.node import LayerShape, find_factored
from .lowerings import LOWERINGS, Lowering
from .passes.fold import Fold
from .plan_file import FORMAT, PlanFile

# The call a plan is made for: one text of 128 tokens. Fewer tokens favour forms of few nodes.
DEFAULT_TOKENS = 128

# Precisions a plan decides layer by layer; others are made of a finished fp32 graph.
PLANNED = ("fp32", "int8")


@dataclass(frozen=True)
class Candidate:
    """One form of one layer.

    Attributes:
        lowering: its name.
        refused: why it does not apply, or None.
        cost: multiply-adds per token, glue included; None where it does not apply.
    """

    lowering: str
    refused: str | None
    cost: float | None


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer.

    Attributes:
        shape: its sizes.
        lowering: name of the chosen form.
        reason: why that one.
        refused: why not, for every other form by name.
        precision: "fp32" or, in a plan for int8, "int8".
    """

    shape: LayerShape
    lowering: str
    reason: str
    refused: Mapping[str, str]
    precision: str = "fp32"


@dataclass(frozen=True)
class Plan:
    """The chosen form of every factored layer.

    Attributes:
        layers: by qualified name; empty for a dense model.
        folds: features put in another order, and those that were not, with the reason.
        tokens: batch x sequence of the calls the plan is made for.
        precision: of the products outside the layers: "fp32" or "int8".
    """

    layers: Mapping[str, LayerPlan]
    folds: tuple[Fold, ...] = ()
    tokens: int = DEFAULT_TOKENS
    precision: str = "fp32"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "format": FORMAT,
            "tokens": self.tokens,
            "precision": self.precision,
            "folds": [
                {**asdict(fold), "writers": list(fold.writers), "readers": list(fold.readers)} for fold in self.folds
            ],
            "layers": {name: _layer_to_dict(layer) for name, layer in self.layers.items()},
        }

    @classmethod
    def from_dict(cls, data: Any, source: str = "plan") -> Plan:
        """Read a plan from JSON values.

        Args:
            data: what `to_dict` returned.
            source: what to call the plan in messages.

        Raises:
            LosparseError: an unknown or missing key, a wrong type, or a form that this version does not have.
        """
        if isinstance(data, Mapping) and data.get("format", FORMAT) != FORMAT:
            raise LosparseError(f"{source}: plan format is {data['format']!r}, this losparse reads {FORMAT}")
        file = read_as(PlanFile, data, source, name="a plan")
        layers = {
            name: LayerPlan(entry.to_shape(), entry.lowering, entry.reason, entry.refused, entry.precision)
            for name, entry in file.layers.items()
        }
        return cls(layers, tuple(entry.to_fold() for entry in file.folds), file.tokens, file.precision)

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """Return the JSON schema of a plan's file, by which editors complete and check it."""
        return json_schema(PlanFile)

    @classmethod
    def read(cls, file: Path | str) -> Plan:
        """Read a plan from a JSON file.

        Raises:
            LosparseError: the file cannot be read, or as `from_dict`.
        """
        try:
            data = json.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise LosparseError(f"{file}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise LosparseError(f"{file}: not valid JSON ({error})") from error
        return cls.from_dict(data, str(file))

    def digest(self) -> str:
        """Return the SHA-256 of the plan's JSON, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def choose(self, lowerings: Mapping[str, str]) -> Plan:
        """Return a plan with other forms for some layers.

        Args:
            lowerings: names of forms by qualified name of the layer.

        Raises:
            LosparseError: no such layer or form, or the form does not apply to the layer.
        """
        unknown = sorted(set(lowerings) - set(self.layers))
        if unknown:
            raise LosparseError(f"the plan has no layer {unknown[0]!r}; it has {_some(self.layers)}")
        layers = {name: _rechoose(name, layer, lowerings.get(name)) for name, layer in self.layers.items()}
        return Plan(layers, self.folds, self.tokens, self.precision)


def plan_model(
    model: ir.Model, *, tokens: int = DEFAULT_TOKENS, precision: str = "fp32", folds: Sequence[Fold] = ()
) -> Plan:
    """Choose a form for every factored layer of a traced model.

    Args:
        model: as `trace_model` or `fold_model` leaves it.
        tokens: batch x sequence of the calls to plan for.
        precision: "int8" to plan for products that are quantised where that is faster.
        folds: what `fold_model` returned, to be recorded.

    Returns:
        The plan, in graph order.

    Raises:
        LosparseError: tokens is below 1.
    """
    return plan_layers(layer_shapes(model), tokens=tokens, precision=precision, folds=folds)


def layer_shapes(model: ir.Model) -> dict[str, LayerShape]:
    """Return the sizes of a traced model's factored layers by qualified name, in graph order."""
    shapes: dict[str, LayerShape] = {}
    for layer in find_factored(model):
        # A layer that is called twice has one form; what only one call could be put in order for does not count.
        same = shapes.get(layer.name, layer.shape) == layer.shape
        shapes[layer.name] = layer.shape if same else replace(layer.shape, order=None)
    return shapes


def plan_layers(
    shapes: Mapping[str, LayerShape],
    *,
    tokens: int = DEFAULT_TOKENS,
    precision: str = "fp32",
    folds: Sequence[Fold] = (),
) -> Plan:
    """Choose a form for layers of the given sizes; see `plan_model`."""
    if tokens < 1:
        raise LosparseError(f"tokens must be at least 1, got {tokens}")
    layers = {name: _plan_layer(shape, tokens, precision) for name, shape in shapes.items()}
    return Plan(layers, tuple(folds), tokens, precision)


def candidates(shape: LayerShape, *, tokens: int = DEFAULT_TOKENS, precision: str = "fp32") -> tuple[Candidate, ...]:
    """List every form for a layer with its cost or the reason it does not apply, in the order of `LOWERINGS`."""
    listed = []
    for lowering in LOWERINGS:
        refused = lowering.check(shape)
        cost = None if refused is not None else lowering.cost(shape, tokens, precision).total
        listed.append(Candidate(lowering.NAME, refused, cost))
    return tuple(listed)


def lowering_by_name(name: str) -> Lowering:
    """Find a form.

    Raises:
        LosparseError: there is none of that name.
    """
    for lowering in LOWERINGS:
        if name == lowering.NAME:
            return lowering
    raise LosparseError(f"plan: lowering must be one of {', '.join(x.NAME for x in LOWERINGS)}, got {name!r}")


def _plan_layer(shape: LayerShape, tokens: int, precision: str) -> LayerPlan:
    listed = candidates(shape, tokens=tokens, precision=precision)
    costs = {c.lowering: c.cost for c in listed if c.cost is not None}
    refused = {c.lowering: c.refused for c in listed if c.refused is not None}
    best = min(costs, key=lambda name: costs[name])
    for name, cost in costs.items():
        if name != best:
            refused[name] = f"costs {cost:,.0f} multiply-adds per token, {best} costs {costs[best]:,.0f}"
    reason = f"cheapest of {len(costs)} that apply: {costs[best]:,.0f} multiply-adds per token, glue included, "
    return LayerPlan(shape, best, f"{reason}in calls of {tokens} tokens", refused, precision)


def _rechoose(name: str, layer: LayerPlan, lowering: str | None) -> LayerPlan:
    if lowering is None or lowering == layer.lowering:
        return layer
    refused = lowering_by_name(lowering).check(layer.shape)
    if refused is not None:
        raise LosparseError(f"lowering {lowering!r} cannot be used for {name!r}: {refused}")
    others = {other: why for other, why in layer.refused.items() if other != lowering}
    refused_now = {**others, layer.lowering: f"{lowering} was asked for"}
    return LayerPlan(layer.shape, lowering, "asked for", refused_now, layer.precision)


def _layer_to_dict(layer: LayerPlan) -> dict[str, Any]:
    return {
        "lowering": layer.lowering,
        "precision": layer.precision,
        "reason": layer.reason,
        "refused": dict(layer.refused),
        "shape": [layer.shape.out_features, layer.shape.in_features],
        "rank": layer.shape.rank,
        "kept": layer.shape.kept,
        "axis": layer.shape.axis,
        "pivots": layer.shape.pivots,
        "shared": layer.shape.shared,
        "order": None if layer.shape.order is None else asdict(layer.shape.order),
    }


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "") if listed else "none"
