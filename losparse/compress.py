"""One verb: `compress_(model, method)` puts factored layers in place, `compact_(model)` makes them small.

compress_(model, LoSparse(keep=0.2))     dense layers -> training form (or, for one-shot methods, compact form)
... any HF Trainer with method.callbacks() ...
compact_(model)                          training form -> compact form
model.save_pretrained(folder)            opens again with AutoModelFor...from_pretrained after `import losparse`
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from losparse_runtime.contract.progress import SILENT, Phases, Progress

from .calibration.running import Batch
from .errors import LosparseError
from .layers.blocks import block_numbers
from .layers.casting import finite
from .layers.factored import FactoredLinear
from .layers.linear import bias_of, find_targets, replace_module, thin_targets, weight_of
from .layers.pivots import pivot_forms
from .layers.training import training_layers
from .methods import Method, NamesLayers, OneShot, TrainedMethod, method_to_dict
from .methods.one_shot.factorise import factorise_
from .models.fused import fused_apart
from .models.quantised import computed_as_quantised
from .models.report import CompressionReport, report
from .models.roles import pivot_side_of
from .saving.quantizer import mark_compressed

logger = logging.getLogger(__name__)


def compress_(
    model: nn.Module,
    method: Method,
    batches: Iterable[Batch] = (),
    *,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    sequential: bool | None = None,
    to_train: bool = False,
    progress: Progress = SILENT,
) -> CompressionReport:
    """Replace the model's linear layers by factored ones, in place.

    If a layer cannot be replaced, none is. A product that the model keeps for several layers (ModernBERT's `Wqkv`,
    Phi-3's `gate_up_proj`) is taken apart, and its parts are layers like any others.

    Args:
        model: a dense model; a transformers model also gets the entry in its config that `save_pretrained` writes.
        method: what to do, as a value: `LoSparse(keep=0.2)`, `SVD(keep=0.3)`.
        batches: of calibration data, as the model takes them (with labels for methods that use gradients); for
            methods without training that need some.
        targets: patterns of layers to take; one that names such a product means its parts. Default: all linear layers
            in transformer blocks. Layers so thin that factors of rank 1 store as much stay dense, with a warning.
        ignore: patterns of layers to leave dense.
        sequential: let later layers see the outputs of compressed ones while calibrating; None does so where the
            model's blocks form one stack and can be run one by one.
        to_train: the model will be trained on, and `compact_` called afterwards: low-rank parts are left as two
            plain factors, which train better than pivots, and take their final form then.
        progress: shows a stage.

    Returns:
        The report; for a method that trains it counts the layers before anything is dropped.

    Raises:
        LosparseError: no layer to take, a weight that is not finite, calibration data that does not do or that the
            method never looks at, a budget that a layer cannot meet, a setting that
            names no layer, factors that its dtype cannot hold, or what is no
            method, or holds values that JSON does not.
    """
    recorded = method_to_dict(method)
    with fused_apart(model):
        chosen = find_targets(model, targets, ignore)
        _check_chosen(chosen, thin_targets(model, targets, ignore))
        _refuse_idle(method, batches, sequential)
        if isinstance(method, NamesLayers):
            method.check_layers(chosen)
        with computed_as_quantised(model):
            if isinstance(method, OneShot):
                with progress.stage("compressing") as advance:
                    sequential = factorise_(
                        model,
                        method,
                        chosen,
                        list(batches),
                        sequential=sequential,
                        store_pivots=method.pivots and not to_train,
                        phases=Phases(advance),
                    )
            else:
                sequential = None
                _start_training_(model, method, chosen)
    mark_compressed(model, recorded)
    return _reported(model, sequential)


def _check_chosen(chosen: Mapping[str, nn.Module], thin: Mapping[str, nn.Module]) -> None:
    """Refuse layers whose weights say nothing, and warn of those that are passed over.

    Raises:
        LosparseError: a weight is not finite.
    """
    if thin:
        count = f" and {len(thin) - 1} like it" if len(thin) > 1 else ""
        first = next(iter(thin))
        logger.warning("%r%s stay dense: so thin that factors of rank 1 store as much", first, count)
    for name, module in chosen.items():
        if not torch.isfinite(weight_of(module)).all():
            raise LosparseError(f"the weight of {name!r} holds NaN or infinity; mend the model before compressing it")


def _reported(model: nn.Module, sequential: bool | None) -> CompressionReport:
    """Return the report, and warn where it covers little of the model."""
    found = replace(report(model), sequential=sequential)
    if found.coverage is not None and found.coverage.warning is not None:
        logger.warning("%s: %s", type(model).__name__, found.coverage.warning)
    return found


def check_compressible(
    model: nn.Module, method: Method, targets: Sequence[str] | None = None, ignore: Sequence[str] = ()
) -> None:
    """Try a method on the shapes of the layers, without their values: fast, and before anything is changed.

    Raises:
        LosparseError: the model has no layer to compress, or the budget cannot be met in one of them.
    """
    with fused_apart(model):
        layers = find_targets(model, targets, ignore)
        if isinstance(method, OneShot):
            if not method.measured:
                shapes = {name: (int(weight_of(m).shape[0]), int(weight_of(m).shape[1])) for name, m in layers.items()}
                method.sizes(shapes, block_numbers(model, layers))
            return
        if isinstance(method, NamesLayers):
            method.check_layers(layers)
        for name, module in layers.items():
            bias = bias_of(module)
            weight = torch.empty(weight_of(module).shape, device="meta")
            method.start(name, weight, None if bias is None else torch.empty(bias.shape, device="meta"))


def _refuse_idle(method: Method, batches: Iterable[Batch], sequential: bool | None) -> None:
    """Refuse arguments that the method has no use for: whoever gives one expects it to matter.

    Raises:
        LosparseError: see above.
    """
    name = type(method).__name__
    if not isinstance(method, OneShot) and batches:
        raise LosparseError(
            f"batches are for one-shot methods, and {name} looks at none: it is trained; leave them out"
        )
    if sequential is not None and not (isinstance(method, OneShot) and method.statistics & {"gram", "square"}):
        raise LosparseError(
            f"sequential={sequential} is for methods that look at inputs, {name} does not; leave it out"
        )


def _start_training_(model: nn.Module, method: TrainedMethod, chosen: Mapping[str, nn.Module]) -> None:
    """Put the training forms in place; all are built before the first is placed."""
    new: dict[str, FactoredLinear] = {}
    for name, module in chosen.items():
        new[name] = finite(name, method.start(name, weight_of(module).detach(), bias_of(module)))
    for name, module in chosen.items():
        new[name].train(module.training)
        replace_module(model, module, new[name])


def compact_(model: nn.Module, method: Method | None = None) -> CompressionReport:
    """Turn every layer in training form into its small form, in place.

    Args:
        model: a model after training.
        method: when given, the layers must meet its budget.

    Returns:
        The report of what is stored now.

    Raises:
        LosparseError: the model has no factored layer, training stopped before its layers met the budget, or they
            exceed it because their dtype cannot hold them in their smallest form. The model is as it was then.
    """
    training = training_layers(model)
    current = report(model)
    # Ranks are rounded up, so a model of which no group is left may sit just above its budget.
    droppable = any(layer.kept_groups for layer in training.values())
    if method is not None and droppable and current.share > method.keep * (1 + 1e-9):
        raise LosparseError(
            f"the layers hold {current.share:.3f} of their parameters, the budget is {method.keep:g}: training "
            "stopped, or the best checkpoint was taken, before the last phase of the schedule; train to the end"
        )
    small = {layer: layer.compact() for layer in training.values()}
    _replace(model, small)
    stored: dict[FactoredLinear, FactoredLinear] = {}
    try:
        if method is not None and getattr(method, "pivots", False):
            stored, left = pivot_forms(model, pivot_side_of)
            _check_budget(model, method.keep, stored, left)
    except BaseException:
        _replace(model, {layer: old for old, layer in small.items()})
        raise
    _replace(model, stored)
    if small or stored:
        mark_compressed(model, None)
    return report(model)


def _replace(model: nn.Module, layers: Mapping[Any, nn.Module]) -> None:
    for old, new in layers.items():
        replace_module(model, old, new)


def _check_budget(
    model: nn.Module, keep: float, stored: Mapping[FactoredLinear, FactoredLinear], left: Mapping[str, str]
) -> None:
    """See whether layers that cannot be stored by pivots, which the budget counts on, make the model too large.

    Raises:
        LosparseError: they do, and would not in fp32; what exceeds the budget in fp32 as well is logged.
    """
    factored = [layer for layer in model.modules() if isinstance(layer, FactoredLinear)]
    dense = sum(layer.in_features * layer.out_features for layer in factored)
    share = sum(stored.get(layer, layer).parameter_count() for layer in factored) / dense
    if not left or share <= keep * (1 + 1e-9):
        return
    name, reason = next(iter(left.items()))
    what = (
        f"layer {name!r} cannot be stored by pivots: {reason}; with plain factors there the layers hold {share:.3f} of "
        f"their parameters, the budget is {keep:g}"
    )
    if all(parameter.dtype == torch.float32 for parameter in model.get_submodule(name).parameters()):
        logger.warning(what)
        return
    raise LosparseError(f"{what}; call compact_ while the model is in float32, or compress it with pivots=False")
