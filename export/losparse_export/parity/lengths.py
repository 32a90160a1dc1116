"""The shapes at which an exported model is compared with PyTorch.

All precisions are compared at a few batch sizes and lengths. The fp32 graph, of which the others are made, is also
compared where models change what they do: at one token, beyond every window, block and original length that the
configuration names, and near the end of the model's positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from losparse.layers.embedding import CompactTable

_BATCHES = (1, 2, 3)
_LENGTHS = (2, 7, 24)
_LONGEST = 128  # of the lengths that are tried with every batch: beyond it only time grows, and so does torch's

# Settings whose value is a number of tokens from which on attention or positions are another.
_SWITCH = re.compile(
    r"window|block_size|chunk|bucket|original_max_position|local_attention|landmark|max_relative|max_distance"
)
# Beyond so many tokens one row's attention alone takes gigabytes.
_FARTHEST = 4097
# Weights times tokens of the farthest case: some seconds on one core.
_EFFORT = 10**11
_PADDED_UP_TO = 512  # tokens of a case that is run a second time, with two rows


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        batch: rows.
        length: tokens a row, padding included.
        padded: whether all rows but the first have padding.
        past: tokens of earlier runs, where the model keeps what it computed of them.
    """

    batch: int
    length: int
    padded: bool
    past: int = 0


# One token more, of one text and of several; several tokens more, as where a prompt is read in parts: of one text, for
# GroupQueryAttention of onnxruntime 1.31 takes no more.
_BEHIND = (
    Case(1, 1, padded=False, past=1),
    Case(1, 1, padded=False, past=23),
    Case(3, 1, padded=True, past=24),
    Case(1, 4, padded=False, past=7),
    Case(1, 7, padded=False, past=120),
)


def choose_cases(longest: int, beyond: Iterable[int] = (), *, keeps: bool = False) -> Iterator[Case]:
    """List the shapes to compare at: every batch size with every length, padded from two rows on, then longer ones.

    Args:
        longest: tokens the model has positions for.
        beyond: further lengths, each tried with one row, and with a padded second one where that is cheap.
        keeps: whether the model keeps what it computed of earlier tokens: it is then also run behind some.
    """
    usual = min(longest, _LONGEST)
    lengths = {min(length, usual) for length in (*_LENGTHS, usual)}
    for length in sorted(lengths):
        for batch in _BATCHES:
            yield Case(batch, length, padded=batch > 1 and length > 1)
    # A full batch too: rows of equal length take another path through some attention masks.
    yield Case(2, min(_LENGTHS[1], usual), padded=False)
    for length in sorted({length for length in beyond if length <= longest} - lengths):
        yield Case(1, length, padded=False)
        if length <= _PADDED_UP_TO:
            yield Case(2, length, padded=length > 1)
        if keeps and length > 1:
            yield Case(1, 1, padded=False, past=length - 1)
    if keeps:
        yield from (case for case in _BEHIND if case.past + case.length <= longest)


def telling_lengths(model: nn.Module, config: Any, longest: int) -> tuple[list[int], list[int]]:
    """Find the lengths at which a model may do something else than at those that are always tried.

    Args:
        model: for its size, which bounds how long a text is worth its time.
        config: the model's configuration.
        longest: tokens the model has positions for.

    Returns:
        The lengths to compare at: 1, one more than every switch, and the farthest that takes seconds; and the switches
        that are too far to be compared, ascending.
    """
    switches = {value for value in _switches(config.to_dict()) if 1 < value < longest}
    far = sorted(value for value in switches if value >= _FARTHEST)
    near = {value + 1 for value in switches} - {value + 1 for value in far}
    farthest = min(longest, _FARTHEST, max(_LONGEST, _EFFORT // max(1, _matrix_weights(model))))
    return sorted({1, farthest, *near}), far


def _switches(settings: Mapping[str, Any]) -> Iterator[int]:
    """Yield every whole number under a telling name, however deep."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _switches(value)
        elif _SWITCH.search(str(name)):
            values = value if isinstance(value, list | tuple) else [value]
            yield from (each for each in values if isinstance(each, int) and not isinstance(each, bool))


def _matrix_weights(model: nn.Module) -> int:
    """Count the weights that every token is multiplied with: all but tables."""
    kinds = (nn.Embedding, CompactTable)
    tables = {id(own) for module in model.modules() if isinstance(module, kinds) for own in module.parameters(False)}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)
