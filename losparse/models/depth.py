"""Fewer blocks: which transformer blocks a model keeps, before its layers are compressed.

    drop_layers(model, 3)                                          3 blocks, evenly spaced, the last one among them
    drop_layers(model, [0, 2, 5])                                  these
    drop_layers(model, 3, by="importance", batches=batches)        the 3 that change the hidden states most

The result is an ordinary smaller model: `save_pretrained` and `from_pretrained` know nothing of what it was.

Of 6 blocks, 3 evenly spaced ones are [1, 3, 5]: kept block i closes the i-th equal part of the model. The last block
is always among them, because the head was trained on its output. This is the mapping by which TinyBERT pairs a
student's blocks with its teacher's, so hidden states are distilled from the blocks that are kept. DistilBERT's script
takes [0, 2, 4, 7, 9, 11] of 12 instead: first and last, and about every second between; name them to have that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losparse_runtime.contract.tensors import MASK, TEXT_INPUTS, TOKENS

from ..calibration.running import hooked, inference
from ..errors import LosparseError
from .choices import KeepLayersBy

_NUMBERS = ("layer_idx", "layer_id")
"""Attributes by which modules know the number of their block, to find their part of a cache."""

_PER_BLOCK = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Entries of a config that list something for every block."""


def drop_layers(
    model: nn.Module,
    keep: int | Sequence[int],
    *,
    by: KeepLayersBy = "even",
    batches: Iterable[Mapping[str, Tensor]] | None = None,
) -> tuple[int, ...]:
    """Keep some transformer blocks of a model, in place, and drop the others.

    Args:
        model: a dense transformers model, encoder or decoder.
        keep: how many blocks, or which ones by number from 0, in order.
        by: how a number of blocks is chosen: "even" spaces them evenly and keeps the last, "importance" keeps those
            of the greatest influence on `batches`.
        batches: tensors by name (`input_ids`, `attention_mask`); for "importance".

    Returns:
        The numbers of the kept blocks. The config says them too, as `losparse_kept_layers`, counted in the model
        from which blocks were first dropped.

    Raises:
        LosparseError: the model has an encoder and a decoder, or no single list of blocks; the blocks asked for are
            not there; or a kept block would not be the same at its new place.

    References:
        TinyBERT, arXiv:1909.10351 (the uniform mapping of blocks); ShortGPT, arXiv:2403.03853 (importance).
    """
    name, blocks = find_blocks(model)
    kept = _choose(model, len(blocks), keep, by, batches)
    config: Any = model.config
    smaller = copy.deepcopy(config)
    _shorten(smaller, len(blocks), kept)
    _check_places(model, name, smaller, kept)
    before = getattr(config, "losparse_kept_layers", None) or range(len(blocks))
    _shorten(config, len(blocks), kept)
    config.losparse_kept_layers = [before[number] for number in kept]
    stay = [blocks[number] for number in kept]
    del blocks[len(kept) :]
    for place, block in enumerate(stay):
        blocks[place] = block
        for module in block.modules():
            for attribute in _NUMBERS:
                if isinstance(getattr(module, attribute, None), int):
                    setattr(module, attribute, place)
    return kept


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the list of a model's transformer blocks and its qualified name.

    Raises:
        LosparseError: the model has an encoder and a decoder, or not just one list with an entry for every block.
    """
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise LosparseError(
            f"{type(model).__name__} has an encoder and a decoder; only models of one stack lose blocks"
        )
    depth = getattr(config, "num_hidden_layers", None)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    found = [name for name in outer if len(lists[name]) == depth]
    if len(found) != 1:
        raise LosparseError(
            f"{type(model).__name__} must have one list of its {depth} blocks, got "
            f"{', '.join(found) or 'none of that length'}; its blocks are shared, or of another form"
        )
    return found[0], lists[found[0]]


def even_layers(total: int, keep: int) -> tuple[int, ...]:
    """Return which of `total` blocks close `keep` equal parts; the last is always one: (6, 3) -> (1, 3, 5)."""
    return tuple(-(-(part * total) // keep) - 1 for part in range(1, keep + 1))


@contextmanager
def recorded(blocks: Iterable[nn.Module]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record the hidden states before and after every block, in the order of the calls; (batch, sequence, hidden)."""
    states: list[tuple[Tensor, Tensor]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        states.append(
            (args[0] if args else kwargs["hidden_states"], output[0] if isinstance(output, tuple) else output)
        )

    with hooked(block.register_forward_hook(record, with_kwargs=True) for block in blocks):
        yield states


@torch.no_grad()
def block_importance(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> list[float]:
    """Return how much every block changes the hidden states: 1 - cos(before, after), mean over tokens.

    Args:
        model: a transformers model; afterwards in the mode it was in.
        batches: tensors by name; tokens that `attention_mask` leaves out are not counted.

    Returns:
        One number per block, in 0..2; no unit.

    Raises:
        LosparseError: there is no token to measure on, or see `find_blocks`.

    References:
        ShortGPT, arXiv:2403.03853 (block influence).
    """
    _, blocks = find_blocks(model)
    device = next(model.parameters()).device
    sums, tokens = torch.zeros(len(blocks), dtype=torch.float64), 0
    for batch in batches:
        inputs = {name: batch[name].to(device) for name in TEXT_INPUTS if name in batch}
        mask = inputs.get(MASK, torch.ones_like(inputs[TOKENS])).bool()
        with inference(model), recorded(blocks) as states:
            model(**inputs)
        for number, (before, after) in enumerate(states):
            change = 1.0 - F.cosine_similarity(before.float(), after.float(), dim=-1)  # (batch, sequence)
            sums[number] += change[mask].double().sum().cpu()
        tokens += int(mask.sum())
    if tokens == 0:
        raise LosparseError("the importance of blocks needs at least one batch with a token, got none; pass batches=")
    return [float(value) / tokens for value in sums]


def _choose(
    model: nn.Module, total: int, keep: int | Sequence[int], by: str, batches: Iterable[Mapping[str, Tensor]] | None
) -> tuple[int, ...]:
    if by not in ("even", "importance"):
        raise LosparseError(f"blocks are kept by 'even' or 'importance', got {by!r}")
    if not isinstance(keep, int):
        chosen = tuple(keep)
        if not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= total:
            got = ", ".join(map(str, chosen)) or "none"
            raise LosparseError(f"blocks to keep must be different numbers in 0..{total - 1}, in order, got {got}")
        return chosen
    if not 1 <= keep <= total:
        raise LosparseError(f"the number of blocks to keep must be in 1..{total}, got {keep}")
    if by == "even":
        return even_layers(total, keep)
    if batches is None:
        raise LosparseError("the importance of blocks is measured on texts; pass batches=, or choose by='even'")
    scores = block_importance(model, batches)
    return tuple(sorted(sorted(range(total), key=lambda number: -scores[number])[:keep]))


def _shorten(config: Any, total: int, kept: Sequence[int]) -> None:
    """Make a config one of a model of the kept blocks."""
    for key in _PER_BLOCK:
        values = vars(config).get(key)
        if isinstance(values, list) and len(values) == total:
            setattr(config, key, [values[number] for number in kept])
    config.num_hidden_layers = len(kept)  # n_layer, n_layers: the config maps the name


def _check_places(model: Any, name: str, smaller: Any, kept: Sequence[int]) -> None:
    """Refuse what would open as another model: blocks that are made by their number, as ModernBERT's first is."""
    kind = type(model)
    try:
        with torch.device("meta"):
            old, new = (kind(type(config).from_dict(config.to_dict())) for config in (model.config, smaller))
    except Exception as error:  # configs check themselves, each in its own way
        reason = " ".join(str(error).split())[:200]
        raise LosparseError(f"{kind.__name__} cannot be made with {len(kept)} blocks: {reason}") from error
    before, after = old.get_submodule(name), new.get_submodule(name)
    for place, number in enumerate(kept):
        one, other = _outline(before[number]), _outline(after[place]) if place < len(after) else {}
        differing = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        if differing:
            raise LosparseError(
                f"block {number} of {kind.__name__} cannot become block {place}, they differ in {differing[0]!r}; "
                f"name the blocks to keep, with block {place} at its own place"
            )


def _outline(block: nn.Module) -> dict[str, Any]:
    """Return what a block is: the shapes of its tensors, and the plain settings of its modules."""
    outline: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()}
    for path, module in block.named_modules():
        outline[f"{path} type"] = type(module).__name__
        for attribute, value in vars(module).items():
            plain = isinstance(value, bool | int | float | str)
            if plain and not attribute.startswith("_") and attribute not in _NUMBERS:
                outline[f"{path}.{attribute}"] = value
    return outline
