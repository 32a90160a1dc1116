"""Texts of a batch one at a time, each as if it were alone: for models whose answers depend on the other texts.

In some precisions (int8; a variant says so as "mixes_texts") a product scales its input by the largest number in it, so
one text decides how all the others of its batch are rounded. Padding has a part in it too, so every text is run at its
own length. Padding on the left shifts a short text to other positions than it has alone, which models with absolute
positions answer otherwise, in every precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.metadata import Metadata
from ..contract.signature import Signature
from ..contract.tensors import Arrays
from ..contract.variant import Variant


def depends_on_batch(metadata: Metadata, padding_side: str) -> bool:
    """Whether what is said of a text may move by more than the order of sums with the other texts of its batch.

    Args:
        metadata: of the folder; what its exporter measured counts too.
        padding_side: where the folder fills short texts, "left" or "right".
    """
    return padding_side == "left" or variant_mixes(metadata.variant)


def variant_mixes(variant: Variant) -> bool:
    """Whether it does so in a variant wherever the folder pads; what its exporter measured counts too."""
    if variant.mixes_texts:
        return True
    parity = variant.parity or {}
    mates = parity.get("batch_mates")  # earlier writers did not measure it
    return mates is not None and bool(mates["max_abs"] > parity["tolerance"])


def run_alone(run: Callable[[Arrays], Arrays], inputs: Arrays, signature: Signature) -> Arrays:
    """Run every row by itself, from its first real token to its last.

    Args:
        run: runs a model once.
        inputs: of the whole batch, as the signature checked them.
        signature: of the model.

    Returns:
        The outputs of the whole batch; entries of tokens that are padding are 0.
    """
    mask = signature.mask_of(inputs)
    rows, length = mask.shape
    parts, outputs = [], []
    for row in range(rows):
        real = np.flatnonzero(mask[row])
        part = slice(int(real[0]), int(real[-1]) + 1) if real.size else slice(0, length)
        parts.append(part)
        outputs.append(run(signature.cut(inputs, row, part)))
    return {
        name: _whole([output[name] for output in outputs], parts, length, per_token=name in signature.token_outputs)
        for name in outputs[0]
    }


def _whole(values: list[NDArray[Any]], parts: list[slice], length: int, *, per_token: bool) -> NDArray[Any]:
    """Put what came of the rows together; with one entry a token, in the places of the tokens."""
    if not per_token:
        return np.concatenate(values)
    whole = np.zeros((len(values), length, *values[0].shape[2:]), values[0].dtype)
    for row, (part, value) in enumerate(zip(parts, values, strict=True)):
        whole[row, part] = value[0]
    return whole
