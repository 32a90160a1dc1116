"""Which linear layers are compressed, and how one is replaced by name.

A pattern is a glob on the qualified name (`bert.encoder.layer.*.query`), or a regular expression on the whole name
behind `re:` (`re:.*attention.*`). Without patterns the targets are all linear layers inside transformer blocks: the
modules below a numbered entry of an `nn.ModuleList`. Embeddings, heads and poolers stand outside the blocks and are
never taken unless a pattern names them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import LosparseError
from .blocks import block_of
from .budget import break_even_rank
from .factored import FactoredLinear
from .patterns import matches


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a plain linear layer: `nn.Linear` or GPT-2's `Conv1D`, not a subclass of them."""
    return type(module) is nn.Linear or type(module) is Conv1D


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a linear layer stores its weight as (in, out): `Conv1D`."""
    return isinstance(module, Conv1D)


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a linear layer as (out, in); `Conv1D` stores it transposed."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if is_transposed(module) else weight


def bias_of(module: nn.Module) -> Tensor | None:
    """Return the values of a linear layer's bias, (out,), or None."""
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    return None if bias is None else bias.detach()


def find_targets(
    model: nn.Module, targets: Sequence[str] | None = None, ignore: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """Find the linear layers to compress.

    Args:
        model: any module.
        targets: patterns; a layer is taken when one matches. None takes the linear layers of transformer blocks.
        ignore: patterns of layers to leave alone.

    Returns:
        Linear layers by qualified name, in the model's order; a layer that is used twice appears once. Layers too thin
        for a low-rank part (`thin_targets`) are not among them.

    Raises:
        LosparseError: a pattern matches nothing, nothing is left, the model is already compressed, quantised or
            wrapped by PEFT, or a weight is shared with a module that is not a target.
    """
    chosen = _matching(model, targets, ignore)
    wide = {name: module for name, module in chosen.items() if not _is_thin(module)}
    if not wide:
        example = f", the first, {next(iter(chosen))!r}, is {_sizes(next(iter(chosen.values())))}"
        raise LosparseError(
            f"{type(model).__name__} has no layer to compress: those chosen are so thin that factors of rank 1 store "
            f"as much{example}; name others with targets="
        )
    _refuse_shared_weights(model, wide)
    return wide


def thin_targets(
    model: nn.Module, targets: Sequence[str] | None = None, ignore: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """Find the layers that `find_targets` passes over: factors of rank 1 store as much as they (a gate of 1 x 64).

    Raises:
        LosparseError: as `find_targets`.
    """
    return {name: module for name, module in _matching(model, targets, ignore).items() if _is_thin(module)}


def _is_thin(module: nn.Module) -> bool:
    return break_even_rank(*weight_of(module).shape) <= 1.0


def _sizes(module: nn.Module) -> str:
    return "x".join(map(str, weight_of(module).shape))


def _matching(model: nn.Module, targets: Sequence[str] | None, ignore: Sequence[str]) -> dict[str, nn.Module]:
    """Return the linear layers that the patterns choose."""
    _refuse_foreign(model)
    linear = {name: module for name, module in model.named_modules() if is_linear(module)}
    if targets is None:
        chosen = {name: module for name, module in linear.items() if block_of(model, name) is not None}
    else:
        _refuse_idle_patterns("target", targets, linear)
        chosen = {name: m for name, m in linear.items() if any(matches(name, pattern) for pattern in targets)}
    if ignore:
        _refuse_idle_patterns("ignore", ignore, linear)
        chosen = {name: m for name, m in chosen.items() if not any(matches(name, pattern) for pattern in ignore)}
    if not chosen:
        raise LosparseError(
            f"{type(model).__name__} has no layer to compress: {len(linear)} linear layers, none chosen; "
            "name layers with targets= (see named_modules())"
        )
    return chosen


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` stands in the model; a module used under two names is replaced under both."""
    for parent in list(model.modules()):
        # Not named_children(): it lists a child that is registered twice only once.
        for name in [name for name, child in parent._modules.items() if child is old]:
            setattr(parent, name, new)


def _refuse_idle_patterns(kind: str, patterns: Iterable[str], linear: Iterable[str]) -> None:
    names = list(linear)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            example = f", for example {names[0]!r}" if names else ""
            raise LosparseError(f"{kind} pattern {pattern!r} matches none of the {len(names)} linear layers{example}")


def _refuse_foreign(model: nn.Module) -> None:
    """Refuse models whose linear layers are no longer plain weights."""
    for name, module in model.named_modules():
        if isinstance(module, FactoredLinear):
            raise LosparseError(f"the model is already compressed ({name!r} is factored); start from the dense model")
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    tables_alone = method == "losparse"  # its layers would have been found above
    if (getattr(model, "is_quantized", False) or config is not None) and not tables_alone:
        raise LosparseError(f"the model is already quantised ({method}); start from its unquantised weights")
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise LosparseError("the model carries PEFT adapters; merge them first (merge_and_unload())")


def _refuse_shared_weights(model: nn.Module, chosen: dict[str, nn.Module]) -> None:
    """Refuse a target whose weight another module uses as well: factoring one would silently untie the two."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(name)
    for name, module in chosen.items():
        shared = [other for other in owners[id(module.weight)] if other != name]
        if shared:
            raise LosparseError(
                f"layer {name!r} shares its weight with {shared[0]!r}; leave it out with ignore=[{name!r}]"
            )
