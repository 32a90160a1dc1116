"""Made-up inputs: the one maker of what a model is traced, compared, timed and recorded with.

`random_feeds` draws tokens of a seed, with padding and pairs where they are asked for, and states of a past.
`counted_feeds` counts the tokens 0, 1, 2 ... and pads the last row, to trace with.
`recorded_ids` are the same on every machine and in every version of numpy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .tensors import BATCH, PAST, SEQUENCE, SOURCE, TOTAL, Arrays, TensorSpec, Vocabulary, end_rows_

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """What random feeds look like.

    Attributes:
        batch: texts.
        length: tokens in a text, padding included.
        past: tokens that earlier runs read.
        seed: of the random numbers; several numbers are one seed.
        padding: "none"; "drawn" for all rows but the first, of a random length; "half" for every second row, which
            then has half of its tokens.
        side: where rows are padded; on the left in front of the tokens of earlier runs.
        pairs: whether the second half of a text is of the second type.
        spare_filler: whether the token that fills short rows is never drawn even where nobody names it. Models that
            number positions by it (RoBERTa) take it for padding anywhere.
        sizes: of further free axes by name; what an encoder read is as long as the text by default.
    """

    batch: int
    length: int
    past: int = 0
    seed: int | tuple[int, ...] = 0
    padding: Literal["none", "drawn", "half"] = "none"
    side: Literal["left", "right"] = "right"
    pairs: bool = False
    spare_filler: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def axes(self) -> dict[str, int]:
        """Size of every free axis."""
        own = {BATCH: self.batch, SEQUENCE: self.length, PAST: self.past, TOTAL: self.past + self.length}
        return {SOURCE: self.length, **own, **self.sizes}


def random_feeds(inputs: Collection[TensorSpec], vocabulary: Vocabulary, draw: Draw) -> Arrays:
    """Draw the inputs of one run.

    Token ids are any of the vocabulary but the padding one. Numbers that are no ids are normally distributed, whole
    ones 0.

    Args:
        inputs: of the model.
        vocabulary: of the model.
        draw: sizes, padding and seed.

    Returns:
        Arrays by input name, in the order of the inputs.

    Raises:
        InputError: the vocabulary size is unknown or holds nothing but padding, or an axis has no size.
    """
    random = np.random.default_rng(draw.seed)
    ids = _draw_ids(random, vocabulary, draw) if _reads_tokens(inputs) else _blank(draw)
    whole = _mask(random, draw)
    mask = whole[:, draw.past :]
    end_rows_(ids, mask, vocabulary)
    ids[mask == 0] = vocabulary.filler
    types = np.zeros_like(ids)
    if draw.pairs and vocabulary.types != 1:
        second = mask.cumsum(axis=1) > mask.sum(axis=1, keepdims=True) // 2
        types = (second & (mask == 1)).astype(np.int64)
    return _named(inputs, {"tokens": ids, "mask": whole, "types": types}, draw, random)


def counted_feeds(
    inputs: Collection[TensorSpec], vocabulary: Vocabulary, *, batch: int, length: int, past: int = 0
) -> Arrays:
    """Count the tokens of one run: 0, 1, 2 ... row by row.

    The last row is padded from its half on: a mask of ones alone may be folded out of a graph. Its padding is counted
    on.

    Args:
        inputs: of the model.
        vocabulary: of the model.
        batch: texts.
        length: tokens in a text.
        past: tokens that earlier runs read.

    Returns:
        Arrays by input name, in the order of the inputs.

    Raises:
        InputError: the vocabulary size is unknown, or an axis has no size.
    """
    draw = Draw(batch, length, past)
    ids = _blank(draw)
    if _reads_tokens(inputs):
        ids = np.arange(ids.size).reshape(ids.shape) % _below(vocabulary)
    mask = np.ones_like(ids)
    mask[-1, max(1, length // 2) :] = 0
    end_rows_(ids, mask, vocabulary)
    whole = np.concatenate([np.ones((batch, past), np.int64), mask], axis=1)
    known = {"tokens": ids, "mask": whole, "types": np.zeros_like(ids)}
    return _named(inputs, known, draw, np.random.default_rng(0))


def recorded_ids(length: int, *, size: int, special: Collection[int], end: int | None) -> list[int]:
    """Return the ids of a text that mean nothing in particular, the same on every machine.

    Args:
        length: tokens of the text.
        size: of the vocabulary.
        special: ids that are left out, where there are others.
        end: the last token, where it is one of the vocabulary; some models look for it.
    """
    usable = [number for number in range(size) if number not in special] or [0]
    ids = [usable[int(raw) % len(usable)] for raw in stable_raw(length)]
    return [*ids[:-1], end] if end is not None and 0 <= end < size else ids


def positions_of(mask: NDArray[Any], length: int) -> Ints:
    """Count the tokens of every text from 0 on, those of earlier runs first; what pads it on the left counts nothing.

    Args:
        mask: 1 at tokens, 0 at padding; (batch, past+sequence).
        length: tokens of this run.

    Returns:
        Positions of the tokens of this run; (batch, sequence). Padding has that of the token before it, or 0.
    """
    return np.asarray(np.maximum(mask.cumsum(axis=1) - 1, 0)[:, mask.shape[1] - length :], np.int64)


def stable_raw(count: int) -> NDArray[np.uint64]:
    """Return the same random numbers on every machine: numpy promises the stream of a bit generator, no other."""
    return np.random.PCG64(0).random_raw(count)


def _reads_tokens(inputs: Collection[TensorSpec]) -> bool:
    return any(spec.role == "tokens" for spec in inputs)


def _blank(draw: Draw) -> Ints:
    return np.zeros((draw.batch, draw.length), np.int64)


def _below(vocabulary: Vocabulary) -> int:
    if vocabulary.below is None:
        raise InputError("config.json must have vocab_size to make random token ids; export the folder again")
    return vocabulary.below


def _draw_ids(random: np.random.Generator, vocabulary: Vocabulary, draw: Draw) -> Ints:
    size, padding = _below(vocabulary), vocabulary.padding
    unused = vocabulary.filler if draw.spare_filler else padding
    skipped = 1 if draw.spare_filler or (padding is not None and padding < size) else 0
    if size <= skipped:
        raise InputError(f"config.json must have a vocab_size above {skipped} to make random token ids, got {size}")
    ids = random.integers(0, size - skipped, (draw.batch, draw.length), np.int64)
    if unused is not None:
        ids += ids >= unused  # steps over it, so that all others stay equally likely
    return ids


def _mask(random: np.random.Generator, draw: Draw) -> Ints:
    """Return 1 at tokens of texts, those of earlier runs first; (batch, past+length).

    Padding on the left is in front of the first token of all, on the right behind the last one of this run.
    """
    left = draw.side == "left"
    padded = draw.length + draw.past if left else draw.length
    lengths = np.full(draw.batch, padded)
    if draw.padding == "drawn" and padded > 1:
        lengths = random.integers(1, padded, draw.batch)
        lengths[0] = padded
    if draw.padding == "half":
        lengths[1::2] = (padded + 1) // 2
    places = np.arange(padded)[::-1] if left else np.arange(padded)
    mask = (places < lengths[:, None]).astype(np.int64)
    return mask if left else np.concatenate([np.ones((draw.batch, draw.past), np.int64), mask], axis=1)


def _named(
    inputs: Collection[TensorSpec], known: Mapping[str, NDArray[Any]], draw: Draw, random: np.random.Generator
) -> Arrays:
    """Give every input its array: those of tokens are known, the others are made up."""
    return {spec.name: _array(spec, known, draw, random).astype(spec.dtype) for spec in inputs}


def _array(
    spec: TensorSpec, known: Mapping[str, NDArray[Any]], draw: Draw, random: np.random.Generator
) -> NDArray[Any]:
    if spec.role == "mask" and spec.shape[-1] != TOTAL:
        return known["mask"][:, draw.past :]
    if spec.role in known:
        return known[spec.role]
    axes = draw.axes
    unknown = [axis for axis in spec.shape if isinstance(axis, str) and axis not in axes]
    if unknown:
        raise InputError(f"input {spec.name!r} has the axis {unknown[0]!r}, whose size must be given to make it up")
    shape = spec.sized(axes)
    if spec.role == "positions":
        return positions_of(known["mask"], draw.length)
    if spec.role == "memory mask":
        return np.ones(shape, np.int64)
    return random.standard_normal(shape) if spec.dtype.startswith("float") else np.zeros(shape, np.int64)
