"""What a model stores, and what its factored layers have become: never only what was asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..errors import LosparseError
from ..layers.factored import FactoredLinear
from ..layers.joint import layer_specs
from ..layers.spec import LayerSpec
from ..layers.training import TrainingForm
from .coverage import Coverage, coverage
from .unfactored import other_linear


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        name: its qualified name.
        spec: its sizes as they are now: of a layer in training form the groups that it still keeps.
        parameters: what it stores, as the budget counts.
    """

    name: str
    spec: LayerSpec
    parameters: int

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
        }


@dataclass(frozen=True)
class CompressionReport:
    """What was achieved, never only what was asked.

    Attributes:
        layers: one entry per factored layer.
        model_parameters: parameters of the whole model as stored, everything included.
        model_dense_parameters: the same with every factored layer dense.
        sequential: whether later layers saw the outputs of compressed ones while calibrating; None where nothing was
            calibrated.
        coverage: how much of the model's linear weights the factored layers are; None where no layer is factored.
    """

    layers: tuple[LayerReport, ...]
    model_parameters: int
    model_dense_parameters: int
    sequential: bool | None = None
    coverage: Coverage | None = None

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
        }


def dense_report(model: nn.Module) -> CompressionReport:
    """Count what a model stores of which no layer is factored."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return CompressionReport(layers=(), model_parameters=parameters, model_dense_parameters=parameters)


def report(model: nn.Module) -> CompressionReport:
    """Count what the factored layers of a model store.

    Raises:
        LosparseError: the model has no factored layer.
    """
    layers = [_layer_report(name, model.get_submodule(name), spec) for name, spec in layer_specs(model).items()]
    if not layers:
        raise LosparseError(f"{type(model).__name__} has no compressed layer; call compress_(model, method) first")
    factored = [m for m in model.modules() if isinstance(m, FactoredLinear)]
    stored = sum(m.parameter_count() for m in factored)
    held = sum(p.numel() for m in factored for n, p in m.named_parameters(recurse=False) if n != "bias")
    others = sum(parameter.numel() for parameter in model.parameters()) - held
    dense_parameters = sum(layer.dense_parameters for layer in layers)
    return CompressionReport(
        layers=tuple(layers),
        model_parameters=others + stored,
        model_dense_parameters=others + dense_parameters,
        coverage=coverage(dense_parameters, other_linear(model)),
    )


def _layer_report(name: str, layer: nn.Module, spec: LayerSpec) -> LayerReport:
    assert isinstance(layer, FactoredLinear), "only factored layers have a spec"
    if isinstance(layer, TrainingForm):
        spec = replace(spec, kept=layer.kept_groups)
    return LayerReport(name, spec, layer.parameter_count())
