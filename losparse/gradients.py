"""Calibration with gradients: how much the loss depends on weights and on outputs.

    squared_gradients    empirical Fisher information of every weight, summed over rows and over columns
    output_sensitivity   second moments of the loss's gradient by a layer's output, token by token

Neither needs an optimizer, and no gradient of a weight is held longer than it takes to square it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .calibrate import Advance, Batch, Mask, inference, no_batch, silent
from .errors import LosparseError
from .statistics import LayerStatistics

Fisher = Literal["exact", "fast"]


def squared_gradients(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    fisher: Fisher,
    advance: Advance = silent,
) -> dict[str, LayerStatistics]:
    """Add up squared gradients of the layers' weights.

    Args:
        model: whose forward pass returns a loss for batches with labels.
        layers: by qualified name.
        batches: with labels.
        fisher: "exact" takes every example by itself, without its padding; "fast" every batch as it is.
        advance: told after every batch.

    Returns:
        `fisher_in` and `fisher_out` of every layer: sums over examples (or batches), not means.

    Raises:
        LosparseError: no batch, no labels, or a loss or gradient that is not finite.

    References:
        FWSVD, arXiv:2207.00112, eq. 4.
    """
    weights: dict[str, nn.Parameter] = {name: layer.weight for name, layer in layers.items()}  # type: ignore[misc]
    sums = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()}
    steps = 0

    def square(name: str) -> Any:
        def take(weight: Tensor) -> None:
            assert weight.grad is not None
            sums[name] += weight.grad.double().square().cpu()
            weight.grad = None

        return take

    with gradients(model, weights.values()):
        handles = [
            weight.register_post_accumulate_grad_hook(square(name))  # type: ignore[no-untyped-call]
            for name, weight in weights.items()
        ]
        try:
            for batch in batches:
                for example in examples_of(batch) if fisher == "exact" else [batch]:
                    loss_of(model, example).backward()  # type: ignore[no-untyped-call]
                    steps += 1
                advance(1)
        finally:
            for handle in handles:
                handle.remove()
    if not steps:
        raise no_batch()
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise LosparseError(f"the gradient of layer {name!r} is not finite on the calibration data; mend the model")
    return {
        name: LayerStatistics(examples=steps, fisher_in=total.sum(0), fisher_out=total.sum(1))
        for name, total in sums.items()
    }


def output_sensitivity(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Batch], advance: Advance = silent
) -> dict[str, LayerStatistics]:
    """Add up g^T g over tokens, g the gradient by a layer's output of the loss summed over tokens.

    It is the output side of the Kronecker-factored Fisher information: with it, the error of a layer's outputs is
    measured in what it costs the loss, so that layers can be compared.

    Raises:
        LosparseError: no batch, no labels, or a loss that is not finite.

    References:
        Martens and Grosse, arXiv:1503.05671 (K-FAC); GFWSVD, arXiv:2505.17974, for low-rank factors.
    """
    mask = Mask()
    found = {name: LayerStatistics() for name in layers}

    def observe(name: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: _add_sensitivity(found[name], mask.tokens(gradient))
            )

        return keep

    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    with gradients(model, []):
        handles = [layer.register_forward_hook(observe(name)) for name, layer in layers.items()]
        handles.append(embeddings.register_forward_hook(lambda _m, _a, output: output.requires_grad_(True)))
        seen = False
        try:
            for batch in batches:
                seen = True
                mask.set(batch)
                loss = loss_of(model, batch)
                (loss * labelled(batch)).backward()  # type: ignore[no-untyped-call]
                advance(1)
        finally:
            for handle in handles:
                handle.remove()
    if not seen:
        raise no_batch()
    for name, statistics in found.items():
        if statistics.sensitivity is None or not torch.isfinite(statistics.sensitivity).all():
            raise LosparseError(
                f"layer {name!r} has no finite gradient on the calibration data; leave it out with ignore="
            )
    return found


def _add_sensitivity(statistics: LayerStatistics, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    wide = gradient.to(torch.float32)
    moment = (wide.T @ wide).double().cpu()
    statistics.sensitivity = moment if statistics.sensitivity is None else statistics.sensitivity + moment
    statistics.tokens += len(wide)


@contextmanager
def gradients(model: nn.Module, parameters: Iterable[Tensor]) -> Iterator[None]:
    """Let gradients flow to some parameters and no others, in evaluation mode; leave the model as it was."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    held = {parameter: parameter.grad for parameter in before}
    with inference(model):
        try:
            model.requires_grad_(False)
            for parameter in parameters:
                parameter.grad = None
                parameter.requires_grad_(True)
            with torch.enable_grad():
                yield
        finally:
            for parameter, wanted in before.items():
                parameter.requires_grad_(wanted)
                parameter.grad = held[parameter]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's loss of a batch.

    Raises:
        LosparseError: the batch has no labels, or the loss is not finite.
    """
    output = model(**batch)
    loss: Tensor | None = getattr(output, "loss", None)
    if loss is None:
        raise LosparseError(
            "the calibration data has no labels, which this method needs for its gradients; give labelled data, or "
            "take a method that needs texts alone (see `losparse methods`)"
        )
    if not torch.isfinite(loss):
        raise LosparseError(f"the loss is {float(loss.detach())} on the calibration data; mend the model or the labels")
    return loss


def labelled(batch: Batch) -> int:
    """Return how many labels the mean loss of a batch is a mean over."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        return len(next(iter(batch.values())))
    return int((labels != -100).sum()) if labels.dim() > 1 else len(labels)


def examples_of(batch: Batch) -> Iterator[dict[str, Any]]:
    """Take a batch apart into batches of one example, without padding."""
    mask = batch.get("attention_mask")
    size = len(next(iter(batch.values())))
    for row in range(size):
        example = {key: value[row : row + 1] for key, value in batch.items()}
        if isinstance(mask, Tensor) and mask.dim() == 2:
            real = mask[row].bool()
            if not real.any():
                continue  # padding alone
            width = mask.shape[1]
            example = {
                key: value[:, real] if value.dim() > 1 and value.shape[1] == width else value
                for key, value in example.items()
            }
        yield example
