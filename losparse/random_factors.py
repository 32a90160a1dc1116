"""The shapes of a compressed model without its training: random factors, for measuring latency and size.

What a layer keeps is drawn at random and chosen as in training - over all layers at once, within the budget, coupled
where the method couples - so ranks, counts and order are those of a trained model with evenly spread importance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from .layers.factored import FactoredLinear
from .layers.linear import find_targets, replace_module, weight_of
from .layers.spec import LayerSpec
from .methods import LoSparse, method_to_dict
from .methods.losparse.coupling import choose_groups, live_groups
from .methods.losparse.layer import FactoredLinearTraining
from .models.fused import fused_apart
from .models.quantised import computed_as_quantised
from .models.report import CompressionReport, report
from .saving.quantizer import mark_compressed


@torch.no_grad()
def random_factors_(
    model: nn.Module,
    method: LoSparse,
    *,
    seed: int = 0,
) -> CompressionReport:
    """Replace linear layers in transformer blocks by factored ones of random weights, in place; no weight is read.

    Args:
        model: a dense model.
        method: its budget, structure and ranks are used.
        seed: of weights and of what is kept.

    Returns:
        The report of what is stored.

    Raises:
        LosparseError: no layer to take, or a rank at break-even.
    """
    with fused_apart(model):
        chosen = find_targets(model)
        layers = draw_factors(sizes_of(chosen), method, getattr(model, "config", None), seed=seed)
        return place_factors_(model, layers, method)


def place_factors_(model: nn.Module, layers: Mapping[str, FactoredLinear], method: LoSparse) -> CompressionReport:
    """Put factored layers into a model, by qualified name, in place; returns the report of what is stored."""
    recorded = method_to_dict(method)
    with computed_as_quantised(model):
        for name, layer in layers.items():
            old = model.get_submodule(name)
            layer.train(old.training)
            replace_module(model, old, layer)
    mark_compressed(model, recorded)
    return report(model)


_SPREAD = 0.02
"""Standard deviation of a new weight where a configuration does not say: BERT's."""


def sizes_of(layers: Mapping[str, nn.Module]) -> dict[str, LayerSpec]:
    """Return what dense linear layers are, by qualified name."""
    shapes = {name: weight_of(module).shape for name, module in layers.items()}
    return {name: LayerSpec.dense(*shape, bias=layers[name].bias is not None) for name, shape in shapes.items()}


@torch.no_grad()
def draw_factors(
    sizes: Mapping[str, LayerSpec], method: LoSparse, config: PretrainedConfig | None = None, *, seed: int = 0
) -> dict[str, FactoredLinear]:
    """Draw the factored layers that stand for dense ones of these sizes; see `random_factors_`.

    Args:
        sizes: by qualified name.
        method: its budget, structure and ranks are used.
        config: of the model, for its number of heads.
        seed: of weights and of what is kept.

    Raises:
        LosparseError: a rank at break-even, or the method's low_rank names no layer.
    """
    method.check_layers(sizes)
    random = torch.Generator().manual_seed(seed)
    plans = {name: _plan(name, layer, method) for name, layer in sizes.items()}
    scores = {name: torch.rand(len(layer.mask), generator=random) for name, layer in plans.items()}
    costs = {name: layer.group_size for name, layer in plans.items()}
    budget = method.sparse_budget(list(plans.values()))
    families = method.families(plans, config)
    masks = choose_groups(families, scores, costs, budget)
    live = live_groups(families, masks)
    spread = float(getattr(config, "initializer_range", None) or _SPREAD)
    return {name: _filled(layer, masks[name], live.get(name), spread, random) for name, layer in plans.items()}


def _plan(name: str, layer: LayerSpec, method: LoSparse) -> FactoredLinearTraining:
    """Return the layer's training form without memory: only its sizes are used."""
    return FactoredLinearTraining(
        layer.in_features,
        layer.out_features,
        rank=method.rank_of(name, layer.out_features, layer.in_features),
        axis=method.axis_of(name),
        bias=layer.bias,
        device="meta",
    )


@torch.no_grad()
def draw_dense(
    sizes: Mapping[str, LayerSpec], config: PretrainedConfig | None = None, *, seed: int = 0
) -> dict[str, FactoredLinear]:
    """Draw layers of which everything is kept, in the form of factored ones.

    Args:
        sizes: by qualified name.
        config: of the model.
        seed: of the weights.
    """
    random = torch.Generator().manual_seed(seed)
    spread = float(getattr(config, "initializer_range", None) or _SPREAD)
    layers = {}
    for name, size in sizes.items():
        layer = FactoredLinear.from_spec(LayerSpec.dense(size.out_features, size.in_features, bias=size.bias))
        for parameter in layer.parameters():
            parameter.normal_(0.0, spread, generator=random)
        layers[name] = layer.copy_(kept=torch.arange(size.out_features))
    return layers


def _filled(
    plan: FactoredLinearTraining, mask: Tensor, live: Tensor | None, spread: float, random: torch.Generator
) -> FactoredLinear:
    """Draw a layer whose low-rank part and whose kept part have each the spread of a new dense weight.

    Args:
        plan: its sizes.
        mask: groups that are kept; (groups,).
        live: groups whose low-rank part is not zero; (groups,); None where that is all of them.
        spread: standard deviation of a new dense weight.
        random: where numbers come from.
    """
    kept = mask.nonzero().flatten()
    layer = FactoredLinear.from_spec(replace(plan.spec, kept=len(kept)))
    for name, parameter in layer.named_parameters():
        # Larger ones make a deep model of random weights forget its input: what is left to compare between two
        # precisions is then mostly rounding, of a dense model even more than of a factored one.
        own = (spread / max(plan.rank, 1) ** 0.5) ** 0.5 if name in ("u", "v") else spread
        parameter.normal_(0.0, own, generator=random)
    layer.copy_(kept=kept)
    factor = layer.u if plan.axis == "out" else layer.v
    if live is not None and factor is not None:
        factor.masked_fill_(~live[:, None] if plan.axis == "out" else ~live[None, :], 0.0)
    return layer
