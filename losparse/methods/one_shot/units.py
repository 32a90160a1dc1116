"""Which layers are factored as one: those that read the same input, found by running the model once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...calibration.running import Batch, backbone, hooked, inference, inputs_of
from ...calibration.statistics import LayerStatistics
from ...layers.blocks import block_of
from ...layers.linear import bias_of, weight_of


@dataclass(frozen=True)
class Unit:
    """Layers that are factored as one: those of a group, or a single one.

    Attributes:
        names: qualified names, in the order in which they are called.
        outputs: output neurons of each.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name that stands for the unit: that of its first layer."""
        return self.names[0]

    def weight(self, layers: Mapping[str, nn.Module]) -> Tensor:
        """Return the stacked weight; (sum of out, in)."""
        weights = [weight_of(layers[name]).detach() for name in self.names]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def bias(self, layers: Mapping[str, nn.Module]) -> Tensor | None:
        """Return the stacked bias, zeros where a layer has none; (sum of out,), or None where none has one."""
        found = [bias_of(layers[name]) for name in self.names]
        if len(found) == 1 or all(bias is None for bias in found):
            return found[0]
        like = next(bias for bias in found if bias is not None)
        parts = [like.new_zeros(out) if b is None else b for b, out in zip(found, self.outputs, strict=True)]
        return torch.cat(parts)

    def statistics(self, known: Mapping[str, LayerStatistics]) -> LayerStatistics:
        """Return the statistics of the stacked layer; their inputs are the same."""
        own = [known[name] for name in self.names]
        if len(own) == 1:
            return own[0]
        return replace(
            own[0],
            fisher_in=_joined([one.fisher_in for one in own], lambda parts: torch.stack(parts).sum(0)),
            fisher_out=_joined([one.fisher_out for one in own], torch.cat),
            sensitivity=_joined([one.sensitivity for one in own], torch.cat),
        )


def _joined(values: Sequence[Tensor | None], join: Callable[[list[Tensor]], Tensor]) -> Tensor | None:
    present = [value for value in values if value is not None]
    return join(present) if len(present) == len(values) else None


def single_units(layers: Mapping[str, nn.Module]) -> list[Unit]:
    """Return every layer as a unit of its own."""
    return [Unit((name,), (len(weight_of(layer)),)) for name, layer in layers.items()]


def joint_units(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch) -> list[Unit]:
    """Find the layers that read the same tensor, by running the model once.

    Args:
        model: to run.
        layers: by qualified name, in the model's order.
        batch: as the model takes it.

    Returns:
        Units that hold every layer once. Layers of a block make a group if they are called one after another with the
        very same tensor, and one of them has as many outputs as a rank can be: it will own the factor. Others stay by
        themselves, and so does a layer that is called more than once (DeBERTa's query and key), or never.
    """
    calls: list[tuple[str, Tensor]] = []

    def note(name: str) -> Any:
        return lambda module, arguments: calls.append((name, arguments[0]))

    with inference(model), hooked(layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()):
        backbone(model, batch)(**inputs_of(batch))
    often = [name for name, _ in calls]
    groups: list[list[str]] = []
    before: Tensor | None = None
    for name, x in calls:
        if often.count(name) > 1:
            before = None
        elif x is before and block_of(model, name) == block_of(model, groups[-1][-1]):
            groups[-1].append(name)
        else:
            groups.append([name])
            before = x
    units: dict[str, Unit] = {}
    for names in groups:
        outputs = tuple(len(weight_of(layers[name])) for name in names)
        width = weight_of(layers[names[0]]).shape[1]
        if len(names) > 1 and max(outputs) >= min(width, sum(outputs)):
            units |= dict.fromkeys(names, Unit(tuple(names), outputs))
    alone = {unit.name: unit for unit in single_units(layers)}
    return list(dict.fromkeys(units.get(name, alone[name]) for name in layers))
