"""Fixed scales of activations beside dynamic ones, on the user's texts: which of the two int8 forms a user may choose.

Random tokens say little of it: scales were measured on texts, and are for texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losparse_runtime import Comparison, Session

from .mates import compare_with_mates

Feeds = Mapping[str, NDArray[Any]]

# Texts that are run beside the longest one, too.
_BESIDE = 16


@dataclass(frozen=True)
class ScaleAgreement:
    """How one int8 form of a model agrees with its fp32 form.

    Attributes:
        cosine: centred, of all rows of an output as one vector, the smallest of the outputs; see `Parity`.
        top1_agreement: share of rows whose largest entry is in the same place.
        beside: largest difference of a number of a text alone and beside the longest one; None where the inputs are no
            single texts.
        accuracy: of the form, by the metric of the task; None without labelled texts.
    """

    cosine: float
    top1_agreement: float
    beside: float | None
    accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)


def compare_scales(
    sessions: Mapping[str, Session], reference: Session, runs: Sequence[Feeds]
) -> dict[str, ScaleAgreement]:
    """Compare int8 forms of a model with its fp32 form.

    Args:
        sessions: of the int8 forms, by name.
        reference: of the fp32 form, which was compared with PyTorch.
        runs: inputs of runs.

    Returns:
        The agreement of every form, by its name.
    """
    overall = {name: Comparison() for name in sessions}
    for run in runs:
        expected, mask = reference.run(run), _mask(reference, run)
        for name, session in sessions.items():
            overall[name].add(session.run(run), expected, mask=mask)
    found = {}
    for name, session in sessions.items():
        parity = overall[name].parity()
        found[name] = ScaleAgreement(parity.centred_cosine, parity.top1_agreement, _beside(session, runs))
    return found


def _mask(session: Session, run: Feeds) -> NDArray[np.int64] | None:
    """Return which tokens are read of outputs of one row a token; None where every row is."""
    return session.signature.mask_of(run) if session.signature.token_outputs else None


def _beside(session: Session, runs: Sequence[Feeds]) -> float | None:
    def tokens(run: Feeds) -> int:
        return int(session.signature.tokens_of(run).shape[1])

    if any(len(session.signature.tokens_of(run)) != 1 for run in runs):
        return None
    mate = max(runs, key=tokens)
    shorter = [run for run in runs if tokens(run) < tokens(mate)][:_BESIDE]
    return compare_with_mates(session, shorter, mate).max_abs if shorter else None
