"""The plan: for every factored layer the cheapest form that applies, and why each other one was not taken.

A plan is data. It is made from the sizes of the layers alone, goes through JSON and back, can be edited, and is
carried out by `lower_model`. In a file:

    {"format": 3, "target": "cpu", "precision": "int8",
     "calls": [{"batch": 8, "length": 32, "past": 0, "threads": 1, "weight": 1.0}, ...],
     "folds": [{"writers": ["...value"], "readers": ["...output.dense"], "blocks": 12, "refused": null}, ...],
     "layers": {"encoder.layer.0.attention.self.query": {
        "lowering": "folded", "reason": "...", "refused": {"gather": "...", ...},
        "precision": "int8", "shape": [384, 384], "rank": 10, "kept": 48, "axis": "out", "pivots": null,
        "shared": false, "order": {"side": "out", "blocks": 12, "first": 0, "pivots": false, "split": false}}}}

A fold with a text in "refused" is not made; `passes.fold` says what folds are, and `edits` what may be edited. In an
int8 plan a layer's products are quantised where that is faster, and stay fp32 where its precision says so. "pivots"
says how the model stores the low-rank part ("out", "in", or null for plain factors), "shared" whether its right factor
is stored with another layer; both may be left out, since forms do not depend on them.

Where features that nobody needs are left out of the graph (`passes.narrow`), a fold says how many, "dropped": 536 and,
of heads, "dropped_blocks": 8, and a layer what is left of it, "narrowed": {"shape": [232, 768], "rank": 0, "kept": 232,
"pivots": null}; the other sizes are those of the model. A fold with "dropped" 0, or without it, drops nothing.

A plan for one text at a time on the CPU is written in format 2, which has "tokens": 128 in place of target and calls:
it says as much, and older versions read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from losparse.errors import LosparseError, shown
from losparse.validation import json_schema, read_as

from ..costs import ONE_TEXT, Call, Traffic
from ..graph.layer import PlannedLayer
from ..passes.fold import Fold
from ..target import CPU, Target
from .file import FORMAT, FORMAT_OF_TOKENS, PlanFile, PlanOfTokens, narrowed_sizes


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer.

    Attributes:
        spec: its sizes, and how its features lie.
        lowering: name of the chosen form.
        reason: why that one.
        refused: why not, for every other form by name.
        precision: "fp32" or, in a plan for int8, "int8".
    """

    spec: PlannedLayer
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
        calls: the plan is made for. Fewer tokens favour forms of few nodes.
        precision: of the products outside the layers: "fp32" or "int8".
        target: name of the machine the plan is made for.
    """

    layers: Mapping[str, LayerPlan]
    folds: tuple[Fold, ...] = ()
    calls: Traffic = ONE_TEXT
    precision: str = "fp32"
    target: str = CPU.name

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        (call, *others) = self.calls.calls
        plain = not others and (self.target, call) == (CPU.name, Call(length=call.length))
        return {
            **(
                {"format": FORMAT_OF_TOKENS, "tokens": call.tokens}
                if plain
                else {"format": FORMAT, "target": self.target, "calls": self.calls.to_list()}
            ),
            "precision": self.precision,
            "folds": [_fold_to_dict(fold) for fold in self.folds],
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
        kind = data.get("format") if isinstance(data, Mapping) else FORMAT
        if isinstance(data, Mapping) and "format" not in data:
            raise LosparseError(f"{source}: format is missing; it must be {FORMAT_OF_TOKENS} or {FORMAT}")
        if kind not in (FORMAT_OF_TOKENS, FORMAT):
            raise LosparseError(
                f"{source}: plan format is {shown(kind)}, this losparse reads {FORMAT_OF_TOKENS} and {FORMAT}"
            )
        file: PlanOfTokens | PlanFile
        if kind == FORMAT:
            file = read_as(PlanFile, data, source, name="a plan")
            target = file.target
        else:
            file = read_as(PlanOfTokens, data, source, name="a plan")
            target = CPU.name
        try:
            calls = file.to_traffic()
        except LosparseError as error:
            raise LosparseError(f"{source}: {error}") from None
        layers = {
            name: LayerPlan(
                entry.to_spec(f"{source}: layers[{name!r}]"),
                entry.lowering,
                entry.reason,
                entry.refused,
                entry.precision,
            )
            for name, entry in file.layers.items()
        }
        return cls(layers, tuple(entry.to_fold() for entry in file.folds), calls, file.precision, target)

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """Return the JSON schema of a plan's file in either format, by which editors complete and check it."""
        return json_schema(PlanOfTokens | PlanFile)

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

    def choose(self, lowerings: Mapping[str, str], target: Target = CPU) -> Plan:
        """Return a plan with other forms for some layers.

        Args:
            lowerings: names of forms by qualified name of the layer.
            target: whose forms.

        Raises:
            LosparseError: no such layer or form, or the form does not apply to the layer.
        """
        unknown = sorted(set(lowerings) - set(self.layers))
        if unknown:
            raise LosparseError(f"the plan has no layer {unknown[0]!r}; it has {_some(self.layers)}")
        layers = {name: _rechoose(name, layer, lowerings.get(name), target) for name, layer in self.layers.items()}
        return replace(self, layers=layers)


def _rechoose(name: str, layer: LayerPlan, lowering: str | None, target: Target) -> LayerPlan:
    if lowering is None or lowering == layer.lowering:
        return layer
    refused = target.lowering(lowering).check(layer.spec)
    if refused is not None:
        raise LosparseError(f"lowering {lowering!r} cannot be used for {name!r}: {refused}")
    others = {other: why for other, why in layer.refused.items() if other != lowering}
    refused_now = {**others, layer.lowering: f"{lowering} was asked for"}
    return LayerPlan(layer.spec, lowering, "asked for", refused_now, layer.precision)


def _fold_to_dict(fold: Fold) -> dict[str, Any]:
    """Return a fold's entry in a file; where nothing is left out it says no more than older versions read."""
    entry = {**asdict(fold), "writers": list(fold.writers), "readers": list(fold.readers)}
    return {key: value for key, value in entry.items() if value or not key.startswith("dropped")}


def _layer_to_dict(layer: LayerPlan) -> dict[str, Any]:
    """Return a layer's entry in a file; a form of a target of one's own is written too, so it is not checked here."""
    return {
        "lowering": layer.lowering,
        "precision": layer.precision,
        "reason": layer.reason,
        "refused": dict(layer.refused),
        **layer.spec.in_model.to_plan(),
        **({} if layer.spec.whole is None else {"narrowed": narrowed_sizes(layer.spec)}),
        "order": None if layer.spec.order is None else asdict(layer.spec.order),
    }


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "") if listed else "none"
