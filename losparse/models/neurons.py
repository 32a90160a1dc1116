"""Fewer neurons: how wide the feed-forward parts of a model are, before its layers are compressed.

    drop_neurons(model, 0.5, batches)                  half the neurons of every block; the rest take over their work
    drop_neurons(model, 0.5, batches, by="norm")       those with the largest weights and inputs; nothing is re-fitted

A neuron is a row of the first product (two rows, where one is a gate) and a column of the second. Every block keeps
equally many, so the result is an ordinary narrower model: `save_pretrained` and `from_pretrained` know nothing of what
it was, and any runtime gains what the arithmetic says.

    error at the second product of dropping a set D of its inputs, the others K taking over what they can:
        min over W' of E |W h - W' h_K|^2,     W' = W_K + W_D G_DK G_KK^-1,     G = E h^T h, or the covariance

Neurons go in rounds, those first that cost least when the rest is re-fitted: |w_j|^2 / (G_KK^-1)_jj.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losparse_runtime.contract.progress import SILENT, Phases, Progress

from ..calibration.running import Batch
from ..calibration.statistics import InputMoments, LayerStatistics
from ..calibration.visit import visitor
from ..errors import LosparseError
from ..layers.budget import check_share
from ..layers.casting import finite
from ..layers.linear import find_targets, is_transposed, weight_of
from .choices import KeepNeuronsBy
from .roles import feed_forward_parts

Layer = Any
"""A linear layer, `nn.Linear` or `Conv1D`, whose values and sizes are changed."""

_WIDTHS = ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner", "d_ff", "d_inner")
"""Entries of a config that say the width: BERT-like and Llama-like, DistilBERT, OPT, GPT-2, T5, XLNet and Funnel."""

_ROUNDS = 8
"""Rounds in which neurons go: what a neuron costs changes with those that are left."""

_RIDGE = 1e-2
"""Of the mean diagonal of G, added to it: what is taken over is never fitted to noise (as SparseGPT dampens)."""


@torch.no_grad()
def drop_neurons(
    model: nn.Module,
    keep: float,
    batches: Sequence[Batch],
    *,
    by: KeepNeuronsBy = "error",
    multiple: int = 8,
    sequential: bool | None = None,
    progress: Progress = SILENT,
) -> int:
    """Keep a share of the feed-forward neurons of every block, in place, and drop the others.

    Args:
        model: a dense transformers model; its config gets the new width, and says it and the one before any
            neuron was dropped as `losparse_kept_neurons`.
        keep: share of the neurons; (0, 1].
        batches: of calibration texts, as the model takes them.
        by: what is kept: "error" drops what the outputs miss least, and lets the others (and the bias, where there is
            one) take over; "norm" keeps the neurons with the largest weights times inputs, as LoRAP does, and changes
            no weight.
        multiple: the number kept is rounded to a multiple of this, upwards, but not above what there is.
        sequential: let later blocks see the outputs of narrower ones; None does so where the model allows it.
        progress: shows a stage.

    Returns:
        The neurons kept in every block.

    Raises:
        LosparseError: a share out of range, no feed-forward parts of one width that the config knows, calibration data
            that does not do, or weights beyond the range of their dtype.

    References:
        LoRAP, arXiv:2404.09695, section 3.3 (the norms; without its protected 1 %). SparseGPT, arXiv:2301.00774, and
        Optimal Brain Surgeon (the cost of a column when the others are re-fitted).
    """
    check_share("keep", keep)
    if by not in ("error", "norm"):
        raise LosparseError(f"neurons are kept by 'error' or 'norm', got {by!r}")
    layers = find_targets(model)
    named = feed_forward_parts(layers)
    parts = {down: _Part([layers[up] for up in ups], layers[down]) for ups, down in named}
    width = _width(model, parts.values())
    kept = min(width, -(-round(keep * width) // multiple) * multiple)
    if kept == width:
        return width
    entry = _width_entry(model, width)
    _check_config(model, named, entry, kept)  # refused before anything is touched
    names = {name for ups, down in named for name in (*(ups if by == "norm" else ()), down)}
    looked_at = {name: layer for name, layer in layers.items() if name in names}
    with _restored_on_failure([layer for part in parts.values() for layer in (*part.ups, part.down)]):
        with progress.stage("dropping neurons") as advance:
            phases = Phases(advance, "dropping neurons")
            visit, in_order = visitor(model, looked_at, batches, {"gram"}, sequential=sequential, phases=phases)
            _narrow_parts(visit(sequential=in_order, last=True), layers, parts, kept, by)
        for name, layer in layers.items():
            finite(name, layer)
    config: Any = model.config
    setattr(config, entry, kept)
    config.losparse_kept_neurons = [kept, (getattr(config, "losparse_kept_neurons", None) or [width, width])[1]]
    return kept


class _Part(NamedTuple):
    """A feed-forward part: the layers whose outputs are its neurons, and the one that reads them."""

    ups: Sequence[Layer]
    down: Layer


@contextmanager
def _restored_on_failure(layers: Sequence[Layer]) -> Iterator[None]:
    """Give layers their weights and biases back if what is done in here fails."""
    before = [(layer, layer.weight, layer.bias) for layer in layers]
    try:
        yield
    except BaseException:
        for layer, weight, bias in before:
            _set(layer, weight, bias)
        raise


def _narrow_parts(
    visited: Iterable[Mapping[str, LayerStatistics]],
    layers: Mapping[str, Layer],
    parts: Mapping[str, _Part],
    kept: int,
    by: KeepNeuronsBy,
) -> None:
    """Make every part narrower when the layer that reads its neurons is visited; `parts` are by that layer's name."""
    moments: dict[int, InputMoments] = {}
    for group in visited:
        for name, statistics in group.items():
            assert statistics.inputs is not None, "it was asked for"
            moments[id(layers[name])] = statistics.inputs
            if name in parts:
                _narrow(parts[name], kept, moments, by)
                moments.clear()


def _narrow(part: _Part, kept: int, moments: Mapping[int, InputMoments], by: KeepNeuronsBy) -> None:
    """Choose the neurons of one part, and cut both sides."""
    ups, down = part
    weight, inputs, bias = weight_of(down).double().cpu(), moments[id(down)], down.bias
    if by == "norm":
        score = (weight * inputs.second_moment(centred=False).diagonal().sqrt()).norm(dim=0)
        for up in ups:
            level = moments[id(up)].second_moment(centred=False).diagonal().sqrt()
            score = score + (weight_of(up).double().cpu() * level).norm(dim=1)
        chosen = torch.sort(torch.topk(score, kept).indices).values
        fitted = weight[:, chosen]
    else:
        noise = torch.finfo(torch.float32).eps * float(inputs.square.sum()) / inputs.tokens
        chosen, fitted = choose_neurons(weight, inputs.second_moment(centred=bias is not None), kept, noise=noise)
        if bias is not None:
            bias = bias.double().cpu() + weight @ inputs.mean - fitted @ inputs.mean[chosen]
    _set(down, fitted, bias)
    for up in ups:
        _set(up, weight_of(up)[chosen], None if up.bias is None else up.bias[chosen])


def choose_neurons(weight: Tensor, gram: Tensor, kept: int, *, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Choose which inputs a product keeps, and re-fit their weights to what it was.

    Args:
        weight: of the product; fp64 (out, in).
        gram: second moment of its inputs; fp64 (in, in).
        kept: how many inputs to keep; 1..in.
        noise: how far rounding may have moved an eigenvalue of `gram`: of one token, a covariance is nothing else.

    Returns:
        Their numbers, rising (kept,), and their weights (out, kept).
    """
    width = len(gram)
    # Inputs that never occur cost nothing, whatever is added.
    ridge = max(_RIDGE * float(gram.diagonal().mean()), 2.0 * noise) or 1.0
    stay = torch.arange(width)
    fitted, inverse = weight, _inverse(gram, stay, ridge)
    for counter in range(1, _ROUNDS + 1):
        cost = fitted.square().sum(0) / inverse.diagonal()
        size = width - round((width - kept) * counter / _ROUNDS)
        stay = stay[torch.sort(torch.topk(cost, size).indices).values]
        gone = torch.ones(width, dtype=torch.bool)
        gone[stay] = False
        inverse = _inverse(gram, stay, ridge)
        fitted = weight[:, stay] + weight[:, gone] @ gram[gone][:, stay] @ inverse
    return stay, fitted


def _inverse(gram: Tensor, stay: Tensor, ridge: float) -> Tensor:
    small = gram[stay][:, stay] + ridge * torch.eye(len(stay), dtype=gram.dtype)
    return torch.cholesky_inverse(torch.linalg.cholesky(small))


def _set(layer: Layer, weight: Tensor, bias: Tensor | None) -> None:
    """Give a linear layer other values, and the sizes that follow from them; a parameter is put back as it is."""
    old: Tensor = layer.weight
    if not isinstance(weight, nn.Parameter):
        stored = weight.T if is_transposed(layer) else weight
        weight = nn.Parameter(stored.to(old.device, old.dtype).contiguous(), requires_grad=old.requires_grad)
    if bias is not None and not isinstance(bias, nn.Parameter):
        bias = nn.Parameter(bias.to(old.device, old.dtype), requires_grad=layer.bias.requires_grad)
    layer.weight, layer.bias = weight, bias
    out_features, in_features = weight_of(layer).shape
    names = ("nf", "nx") if is_transposed(layer) else ("out_features", "in_features")
    for name, size in zip(names, (out_features, in_features), strict=True):
        setattr(layer, name, size)


def _width(model: nn.Module, parts: Iterable[_Part]) -> int:
    """Return how many neurons every block has.

    Raises:
        LosparseError: there are no feed-forward parts, or of different widths.
    """
    widths = {width for ups, down in parts for width in (*(len(weight_of(up)) for up in ups), weight_of(down).shape[1])}
    if len(widths) != 1:
        found = f"of {', '.join(map(str, sorted(widths)))}" if widths else "none"
        raise LosparseError(
            f"{type(model).__name__} must have feed-forward parts (two products, or three with a gate) of one width "
            f"to drop neurons, got {found}"
        )
    return int(widths.pop())


def _width_entry(model: nn.Module, width: int) -> str:
    """Return the entry of the model's config that says how many neurons a block has.

    Raises:
        LosparseError: there is none.
    """
    config: Any = model.config
    for name in _WIDTHS:
        if getattr(config, name, None) == width:
            return name
    for name in ("n_inner", "intermediate_size"):  # GPT-2, GPT-J; GPT-Neo: four times the hidden size
        if getattr(config, name, width) is None:
            return name
    raise LosparseError(
        f"{type(model).__name__} cannot lose neurons: its config has none of {', '.join(_WIDTHS)} at {width}"
    )


def _check_config(model: nn.Module, named: Sequence[tuple[Sequence[str], str]], entry: str, kept: int) -> None:
    """Try that the model's config makes the narrower model when the entry is changed, and nothing but it.

    Raises:
        LosparseError: it makes another model, or none.
    """
    kind, config = type(model), copy.deepcopy(model.config)
    setattr(config, entry, kept)
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for ups, down in named:
        for up in ups:
            wanted[f"{up}.weight"][1 if is_transposed(model.get_submodule(up)) else 0] = kept
            if f"{up}.bias" in wanted:
                wanted[f"{up}.bias"][0] = kept
        wanted[f"{down}.weight"][0 if is_transposed(model.get_submodule(down)) else 1] = kept
    try:
        with torch.device("meta"):
            made = kind(type(config).from_dict(config.to_dict())).state_dict()  # type: ignore[operator, union-attr]
    except Exception as error:  # configs check themselves, each in its own way
        problem = " ".join(str(error).split())[:200]
        raise LosparseError(f"{kind.__name__} cannot be made with {kept} neurons a block: {problem}") from error
    wrong = [name for name, shape in wanted.items() if name not in made or list(made[name].shape) != shape]
    if wrong:
        raise LosparseError(
            f"{kind.__name__} cannot be made with {kept} neurons a block: {wrong[0]!r} would have another shape"
        )
