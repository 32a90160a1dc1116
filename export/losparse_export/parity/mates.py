"""How far the answers about a text move with the other texts of its batch.

In fp32 that is rounding, unless padding moves a text: padding on the left shifts it to other positions, and a model
that numbers them from the first place of the row then says something else of it. In int8 one scale is computed for all
texts of a batch, so a text is rounded otherwise beside a long one than alone; `int8-static` knows its scales before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losparse_runtime import Comparison, Session

from .states import tokenwise

Feeds = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class BatchMates:
    """The differences between a text alone and beside others.

    Attributes:
        max_abs: largest difference of a number.
        cosine: smallest cosine of a row of an output.
        top1_agreement: share of rows whose largest entry is in the same place.
        texts: texts compared.
    """

    max_abs: float
    cosine: float
    top1_agreement: float
    texts: int

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)


def compare_with_mates(session: Session, texts: Sequence[Feeds], mate: Feeds) -> BatchMates:
    """Run every text alone and beside another, padded where the folder pads, and compare what is said of it.

    Args:
        session: the model.
        texts: the inputs of runs of one text without padding, each (1, sequence).
        mate: the same of the text that is put beside each; none of the others is longer.
    """
    overall, signature = Comparison(), session.signature
    side, length = session.encoder.padding_side, signature.tokens_of(mate).shape[1]
    for text in texts:
        own = signature.tokens_of(text).shape[1]
        place = slice(length - own, None) if side == "left" else slice(0, own)
        padded = signature.pad(text, length, side)
        both = {name: np.concatenate([padded[name], mate[name]]) for name in mate}
        alone, beside = (tokenwise(signature, session.run(feeds), 0, states=False) for feeds in (text, both))
        per_token = signature.token_outputs
        first = {name: values[:1, place] if name in per_token else values[:1] for name, values in beside.items()}
        overall.add(first, alone)
    parity = overall.parity()
    # JSON has no infinity, which stands for an answer that is not finite.
    return BatchMates(min(parity.max_abs, sys.float_info.max), parity.cosine, parity.top1_agreement, len(texts))
