"""The gate: an exported folder is kept only if it computes what PyTorch computes.

The files themselves are opened, as a user would open them, and compared with the PyTorch model on seeded random tokens
at several batch sizes and lengths (`lengths` says which), with masks of ones and with padding. The reference is a fresh
copy every time, never the one that was traced. Outputs of one row a token are compared where the mask is 1: what a
model says at padding is never read, and attention kernels are free to differ there.

How far the outputs may be apart depends on the precision; `precision.table` has the bounds and the reasons.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from losparse.errors import LosparseError
from losparse_runtime import Comparison, Parity, Session, compare
from losparse_runtime.checking.bounds import allowed_difference
from losparse_runtime.contract.feeds import Draw
from losparse_runtime.contract.files import read_metadata
from losparse_runtime.contract.progress import Phases
from losparse_runtime.contract.tensors import Arrays

from ..opening.task_model import TaskModel
from ..precision.table import judge_of
from ..target import CPU
from .lengths import Case, choose_cases, telling_lengths
from .locate import LayerDifference, first_difference
from .mates import BatchMates, compare_with_mates
from .states import behind, tokenwise
from .vectors import VectorAgreement, VectorComparison

logger = logging.getLogger(__name__)

# Tokens of the texts that are looked at alone and beside a long one, and of that.
_SHORT, _LONG = (2, 7, 24), 128


@dataclass(frozen=True)
class ParityReport:
    """How far the exported model is from PyTorch.

    Attributes:
        max_abs: largest difference over all cases.
        max_rel: the same against the largest output.
        tolerance: largest difference allowed.
        cosine: centred, of all rows as one vector, the smallest of the outputs; judged where the precision is not fp32.
        top1_agreement: share of rows whose largest entry is in the same place; a row that PyTorch itself is sure of
            must be among them, in classification and where the precision is not fp32.
        cases: batch, length, padded (tokens of padding) and max_abs of each.
        batch_mates: how far the answers about a text move with the other texts of its batch.
        vectors: how far vectors of texts, pooled as the folder says or else by their mean, agree with PyTorch's;
            feature extraction alone.
    """

    max_abs: float
    max_rel: float
    tolerance: float
    cosine: float
    top1_agreement: float
    cases: tuple[Mapping[str, Any], ...]
    batch_mates: BatchMates
    vectors: VectorAgreement | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values = {**asdict(self), "cases": [dict(case) for case in self.cases]}
        if self.vectors is None:
            del values["vectors"]
        return values


class ParityError(LosparseError):
    """The exported model does not compute what PyTorch computes; nothing was written.

    Attributes:
        layer: qualified name of the first layer that differs; None where no single layer does.
        max_abs: the largest difference of an output.
    """

    def __init__(self, message: str, *, layer: str | None, max_abs: float) -> None:
        super().__init__(message)
        self.layer = layer
        self.max_abs = max_abs


def make_feeds(model: TaskModel, case: Case, seed: int = 0) -> Arrays:
    """Return random tokens; int64 (batch, length). Padding holds the padding token.

    It is at the end, or in front of the texts where the model keeps what it computed, as those who generate pad.

    Args:
        model: for its vocabulary and inputs.
        case: batch and length.
        seed: of the tokens and of the lengths of the rows.
    """
    signature = model.signature
    draw = Draw(
        case.batch,
        case.past + case.length,
        seed=(seed, case.batch, case.length, int(case.padded)),
        padding="drawn" if case.padded else "none",
        side="left" if signature.states else "right",
        pairs=True,
        spare_filler=True,
    )
    feeds = signature.random_feeds(draw)
    return feeds if not case.past else behind(signature, feeds, case.past, partial(_states_of, model))


def _states_of(model: TaskModel, feeds: Arrays) -> Arrays:
    """Return what PyTorch leaves behind a run for the next one."""
    outputs = model.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
    return model.signature.next_states({name: tensor.numpy() for name, tensor in outputs.items()})


def check_parity(
    model: TaskModel,
    folder: Path,
    *,
    precision: str = "fp32",
    provider: str = CPU.provider,
    seed: int = 0,
    phases: Phases | None = None,
) -> ParityReport:
    """Compare an exported folder with the PyTorch model it came from.

    Args:
        model: the reference.
        folder: what was exported, complete but for the report this returns.
        precision: of the folder's numbers, as `Variant.arithmetic` says it.
        provider: onnxruntime's name of what runs it.
        seed: of the tokens.
        phases: told how many cases are done.

    Returns:
        The differences, all within the tolerance.

    Raises:
        ParityError: the outputs are further apart than the precision explains, or a number is NaN or infinite.
        LosparseError: PyTorch itself returns NaN or infinities.
    """
    variant = read_metadata(folder).variant_name  # not the one that is the fastest here
    session = Session(folder, providers=(provider,), threads=torch.get_num_threads(), variant=variant, unchecked=True)
    cases = _cases(model, min(model.longest, session.max_length), precision)
    exact = precision == "fp32"  # how far rounded keys and values are from exact ones, logits say
    overall, scale, phases = Comparison(), 0.0, phases or Phases()
    vectors = VectorComparison(session.metadata.pooling or "mean") if model.task.embeds else None
    results: list[dict[str, Any]] = []
    for done, case in enumerate(cases):
        phases.at("comparing with PyTorch", done, len(cases))
        feeds = make_feeds(model, case, seed)
        real = model.signature.mask_of(feeds)
        mask = real if model.task.per_token else None
        expected = _reference(model, feeds, states=exact)
        scale = max(scale, *(_magnitude(values, mask) for values in expected.values()))
        actual = tokenwise(model.signature, session.run(feeds), case.length, states=exact)
        overall.add(actual, expected, mask=mask)
        if vectors is not None:
            (output,) = model.task.outputs
            vectors.add(actual[output], expected[output], real)
        padded = int((real == 0).sum())
        result = {"batch": case.batch, "length": case.length, **({"past": case.past} if case.past else {})}
        result["padded"] = padded
        results.append({**result, "max_abs": compare(actual, expected, mask=mask).max_abs})
    phases.at("comparing with PyTorch", len(cases), len(cases))
    judge, parity = judge_of(precision), overall.parity()
    tolerance = allowed_difference(judge.difference, scale)
    failure = judge.failure(parity, tolerance, classifies=model.task.names_classes)
    if failure is not None:
        worst = cases[parity.worst_batch]
        difference = first_difference(model, folder, make_feeds(model, worst, seed), judge.difference, provider)
        raise _failure(parity, failure, worst, difference)
    # JSON has no infinity, which a reference of zeros alone would give.
    largest = min(parity.max_rel, sys.float_info.max)
    similar = parity.centred_cosine, parity.top1_agreement
    mates = _with_mates(model, session, max(case.length for case in cases), seed)
    if precision == "fp32" and mates.max_abs > tolerance:
        _warn_of_mates(model, session, mates, tolerance)
    agreement = None if vectors is None else vectors.agreement()
    return ParityReport(parity.max_abs, largest, tolerance, *similar, tuple(results), mates, agreement)


def _with_mates(model: TaskModel, session: Session, longest: int, seed: int) -> BatchMates:
    """Compare short texts alone and beside a long one; lengths in tokens."""
    lengths = [min(length, longest) for length in _SHORT]
    texts = [make_feeds(model, Case(1, length, padded=False), seed + turn) for length in lengths for turn in range(4)]
    return compare_with_mates(session, texts, make_feeds(model, Case(1, min(longest, _LONG), padded=False), seed))


def _warn_of_mates(model: TaskModel, session: Session, mates: BatchMates, tolerance: float) -> None:
    """Say that answers depend on the batch, in any precision: the graph in fp32 does not even round."""
    logger.warning(
        "%s: what it says of a text moves by up to %.1e beside a longer one (allowed %.1e), which pads it on the %s; "
        "Session(folder, batch_invariant=True) or `losparse run --batch-invariant` runs every text alone",
        type(model.model).__name__,
        mates.max_abs,
        tolerance,
        session.encoder.padding_side,
    )


def _cases(model: TaskModel, longest: int, precision: str) -> list[Case]:
    """Choose the shapes; the fp32 graph is also looked at where its model may branch, others are made of it."""
    if precision != "fp32":
        return list(choose_cases(longest, keeps=bool(model.signature.states)))
    lengths, too_far = telling_lengths(model.model, model.model.config, longest)
    if too_far:
        logger.warning(
            "%s changes what it does at %d tokens, which is too long to be compared with PyTorch; compare outputs of "
            "longer texts yourself",
            type(model.model).__name__,
            too_far[0],
        )
    return list(choose_cases(longest, lengths, keeps=bool(model.signature.states)))


def _reference(model: TaskModel, feeds: Arrays, *, states: bool) -> dict[str, NDArray[Any]]:
    outputs = model.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
    arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
    arrays = tokenwise(model.signature, arrays, model.signature.tokens_of(feeds).shape[1], states=states)
    mask = model.signature.mask_of(feeds).astype(bool)
    for name, array in arrays.items():
        if not np.isfinite(array[mask] if model.task.per_token else array).all():
            raise LosparseError(f"PyTorch itself returns NaN or infinities in {name!r}; the model is not usable")
    return arrays


def _magnitude(values: NDArray[Any], mask: NDArray[np.int64] | None) -> float:
    return float(np.abs(values if mask is None else values[mask.astype(bool)]).max())


def _failure(parity: Parity, failure: tuple[str, str], case: Case, difference: LayerDifference | None) -> ParityError:
    found, allowed = failure
    where = f"{parity.worst_output!r} at batch {case.batch}, length {case.length}"
    message = f"the exported model differs from PyTorch: {found} in {where} (allowed {allowed}); "
    if difference is None:
        message += "no single layer differs"
    else:
        message += f"the first layer that differs is {difference.layer!r}, by {difference.max_abs:.2e}"
    return ParityError(message, layer=None if difference is None else difference.layer, max_abs=parity.max_abs)
