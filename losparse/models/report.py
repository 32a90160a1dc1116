"""What a model stores, and what its factored layers have become: never only what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..errors import LosparseError
from ..layers.factored import FactoredLinear
from ..layers.joint import layer_specs
from ..layers.spec import LayerSpec
from ..layers.table import TableSpec
from ..layers.training import TrainingForm
from .coverage import Coverage, coverage
from .heads import Heads, attention_lines, heads_of
from .tables import compact_tables, stored_parameters
from .unfactored import other_linear


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        name: its qualified name.
        spec: its sizes as they are now: of a layer in training form the groups that it still keeps.
        parameters: what it stores, as the budget counts.
        heads: of an attention whose heads keep equally many places each; else None.
    """

    name: str
    spec: LayerSpec
    parameters: int
    heads: Heads | None = None

    @property
    def dense_parameters(self) -> int:
        """What it would store if it were dense."""
        return self.spec.dense_parameters

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON report."""
        return {
            "name": self.name,
            "out_features": self.spec.out_features,
            "in_features": self.spec.in_features,
            "rank": self.spec.rank,
            "kept": self.spec.kept,
            "axis": self.spec.axis,
            "pivots": self.spec.pivot_side,
            "parameters": self.parameters,
            "dense_parameters": self.dense_parameters,
            "heads": None if self.heads is None else self.heads.to_entry(),
        }


@dataclass(frozen=True)
class CompressionReport:
    """What was achieved, never only what was asked.

    Attributes:
        layers: one entry per factored layer.
        model_parameters: parameters of the whole model as stored, everything included.
        model_dense_parameters: the same with every factored layer and compact table dense.
        sequential: whether later layers saw the outputs of compressed ones while calibrating; None where nothing was
            calibrated.
        coverage: how much of the model's linear weights the factored layers are; None where no layer is factored.
        embeddings: the compact embedding tables, by qualified name.
    """

    layers: tuple[LayerReport, ...]
    model_parameters: int
    model_dense_parameters: int
    sequential: bool | None = None
    coverage: Coverage | None = None
    embeddings: Mapping[str, TableSpec] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters of the factored layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def dense_parameters(self) -> int:
        """Parameters the factored layers would have if they were dense."""
        return sum(layer.dense_parameters for layer in self.layers)

    @property
    def share(self) -> float:
        """Kept share of the factored layers, the paper's remaining ratio; 1 where no layer is factored."""
        return self.parameters / self.dense_parameters if self.layers else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON report."""
        return {
            "share": self.share,
            "parameters": self.parameters,
            "dense_parameters": self.dense_parameters,
            "model_parameters": self.model_parameters,
            "model_dense_parameters": self.model_dense_parameters,
            "looked_at": None if self.coverage is None else self.coverage.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
            "embeddings": {name: table.to_entry() for name, table in self.embeddings.items()},
            "attentions": attention_lines((layer.name, layer.spec, layer.heads) for layer in self.layers),
        }


def dense_report(model: nn.Module) -> CompressionReport:
    """Count what a model stores of which no layer is factored."""
    parameters, tables = stored_parameters(model), _table_specs(model)
    return CompressionReport((), parameters, parameters + _saved(tables), embeddings=tables)


def report(model: nn.Module) -> CompressionReport:
    """Count what the factored layers of a model store.

    Raises:
        LosparseError: the model has no factored layer.
    """
    heads = model_heads(model)
    layers = [
        _layer_report(name, model.get_submodule(name), spec, heads.get(name))
        for name, spec in layer_specs(model).items()
    ]
    if not layers:
        raise LosparseError(f"{type(model).__name__} has no compressed layer; call compress_(model, method) first")
    factored = [m for m in model.modules() if isinstance(m, FactoredLinear)]
    stored = sum(m.parameter_count() for m in factored)
    held = sum(p.numel() for m in factored for n, p in m.named_parameters(recurse=False) if n != "bias")
    others, tables = stored_parameters(model) - held, _table_specs(model)
    dense_parameters = sum(layer.dense_parameters for layer in layers)
    return CompressionReport(
        layers=tuple(layers),
        model_parameters=others + stored,
        model_dense_parameters=others + dense_parameters + _saved(tables),
        coverage=coverage(dense_parameters, other_linear(model)),
        embeddings=tables,
    )


def _table_specs(model: nn.Module) -> dict[str, TableSpec]:
    return {name: table.spec for name, table in compact_tables(model).items()}


def _saved(tables: Mapping[str, TableSpec]) -> int:
    """Return how many numbers tables of a lower rank store less than whole ones."""
    return sum(table.dense_parameters - table.parameters for table in tables.values())


def model_heads(model: nn.Module) -> dict[str, Heads]:
    """Return the heads of the compressed attentions of a model, by layer; of none that is still trained."""
    specs, kept = {}, {}
    for name, spec in layer_specs(model).items():
        layer = model.get_submodule(name)
        assert isinstance(layer, FactoredLinear), "only factored layers have a spec"
        if not isinstance(layer, TrainingForm) and (layer.kept is None or not layer.kept.is_meta):
            factor = layer.u if spec.axis == "out" else layer.v
            empty = factor is not None and not factor.is_meta and not bool(factor.any())  # of heads that are all gone
            specs[name], kept[name] = replace(spec, rank=0, pivot_side=None) if empty else spec, layer.kept
    return heads_of(specs, kept, getattr(model, "config", None))


def _layer_report(name: str, layer: nn.Module, spec: LayerSpec, heads: Heads | None) -> LayerReport:
    assert isinstance(layer, FactoredLinear), "only factored layers have a spec"
    if isinstance(layer, TrainingForm):
        spec = replace(spec, kept=layer.kept_groups)
    return LayerReport(name, spec, layer.parameter_count(), heads)
