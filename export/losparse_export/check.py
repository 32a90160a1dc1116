"""Is an ONNX folder as it was written, and the model it came from?

    check_folder("OUT", reference="my-model").passed

Every file is compared with its digest. With a reference the tokens of texts, what is done with numbers, and the numbers
themselves are compared too: against a checkpoint the reference is PyTorch with transformers' own tokenizer; against
another ONNX folder it is that, and no torch is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from losparse.data.loading import load_texts
from losparse.errors import LosparseError
from losparse.saving.source import find_model
from losparse_runtime import FolderError, Session
from losparse_runtime.checking.bounds import allowed_difference, relative_tolerance
from losparse_runtime.checking.folder import changed_description, onnx_reference, open_checked
from losparse_runtime.checking.numbers import (
    SHAPES,
    TEXT_BATCH,
    Measured,
    Reference,
    measure_difference,
    random_batches,
    text_batches,
)
from losparse_runtime.checking.report import CheckedPart, CheckReport, Judgement
from losparse_runtime.checking.tokens import text_differences
from losparse_runtime.contract.files import METADATA_FILE, read_metadata
from losparse_runtime.contract.progress import SILENT, Progress
from losparse_runtime.contract.task import TASKS
from losparse_runtime.contract.tensors import Arrays
from losparse_runtime.contract.variant import DEFAULT_PROVIDER
from losparse_runtime.engine.choice import overflowing
from losparse_runtime.engine.options import Provider
from losparse_runtime.same_model import require_same_model
from losparse_runtime.text.cuts import cuts_told_once

from .precision.base import Precision
from .precision.table import coarser_precision

Texts = tuple[list[str], list[str] | None]
"""Texts, and the second text of each where there are pairs."""


def check_folder(
    folder: Path | str,
    reference: Path | str | None = None,
    data: Path | str | None = None,
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    tolerance: float | None = None,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    threads: int | None = None,
    variant: str | None = None,
    progress: Progress = SILENT,
) -> CheckReport:
    """Check a folder, and compare every variant of it with a reference if there is one.

    Args:
        folder: that `losparse export` wrote.
        reference: the checkpoint it came from, a folder or hub id, or another ONNX folder.
        data: file of texts to compare on beside random tokens, or a hub data set.
        text_column: of the texts in `data`; None for the usual names.
        pair_column: of their second texts; None for the usual names.
        tolerance: largest difference allowed; see `check_session`.
        providers: see `Session`.
        threads: see `Session`.
        variant: the only one to open and compare; the files of all are compared with their digests.
        progress: is told of the stages.

    Raises:
        LosparseError: the reference or the texts cannot be read, or an argument is refused.
        LosparseRuntimeError: the folder cannot be opened although no file of it changed, a model failed, or both do
            different things.
    """
    _refuse_idle("reference", reference, data=data, tolerance=tolerance)
    _refuse_idle("data", data, text_column=text_column, pair_column=pair_column)
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise LosparseError(f"tolerance must be a finite number of 0 or more, got {tolerance}")
    session, changes = open_checked(folder, providers, threads, variant)
    if session is None:
        return CheckReport(tuple(changes))
    alone = variant is not None
    others, skipped = ({}, {}) if alone else _open_others(session, providers, threads, changes)
    if reference is None:
        found = {name: CheckReport(tuple(changed_description(other))) for name, other in others.items()}
        return CheckReport(tuple(changes), others=found, skipped=skipped)
    texts = None
    if data is not None:
        texts = load_texts(data, task=session.task, text_column=text_column, pair_column=pair_column)
    with progress.stage("opening the reference"):
        right = open_reference(session, find_model(reference), threads=threads)
    report = check_session(session, right, texts, tolerance=tolerance, progress=progress)
    found = {}
    for name, other in others.items():
        checked = _compare(other, right.of(other), texts, tolerance, progress)
        found[name] = replace(checked, differences=tuple(changed_description(other)))
    return CheckReport((*changes, *report.differences), report.parts, report.judgement, found, skipped)


def _open_others(
    session: Session, providers: Sequence[Provider], threads: int | None, changes: list[str]
) -> tuple[dict[str, Session], dict[str, str]]:
    """Open the variants beside one that is open; returns those, and why others do not open on this CPU.

    Args:
        session: the one that is open.
        providers: see `Session`, as for the threads.
        threads: see above.
        changes: of the folder's files; a variant that does not open for them is one more.

    Raises:
        FolderError: one does not open, neither because of the CPU nor of a file that changed.
    """
    opened, skipped = {}, overflowing(session.metadata.folder)
    for name in session.metadata.folder.variants:
        if name == session.metadata.variant_name or name in skipped:
            continue
        try:
            opened[name] = Session(session.folder, providers=providers, threads=threads, variant=name)
        except FolderError as error:
            if not changes:
                raise
            changes.append(f"variant {name!r} does not open: {error}")
    return opened, skipped


def _refuse_idle(needed: str, given: object, **others: object) -> None:
    """Refuse arguments that matter beside another one only: a check that passed would not have looked at them."""
    idle = [name for name, value in others.items() if value is not None]
    if given is None and idle:
        raise LosparseError(f"{idle[0]}= does nothing without {needed}=; add that, or leave it out")


def open_reference(session: Session, folder: Path, *, threads: int | None = None) -> Reference:
    """Open what a session is to be compared with.

    Args:
        session: what is checked.
        folder: a checkpoint, or an ONNX folder.
        threads: of an ONNX folder; see `Session`.

    Raises:
        LosparseError: it cannot be opened.
        InputError: it is an ONNX folder of another model.
    """
    if (folder / METADATA_FILE).is_file():
        # Its first variant, the most exact one: not the one that is the fastest here.
        other = Session(folder, threads=threads, variant=read_metadata(folder).variant_name)
        require_same_model([session, other], labels=False)
        return onnx_reference(other)
    from .parity.pytorch import pytorch_reference  # loads torch

    return pytorch_reference(session, folder)


@dataclass(frozen=True)
class _Inputs:
    """Inputs of one kind: what makes the batches, how many there are, and of how many texts."""

    make: Callable[[], Iterator[Arrays]]
    batches: int
    texts: int


def check_session(
    session: Session,
    reference: Reference,
    texts: Texts | None = None,
    *,
    tolerance: float | None = None,
    progress: Progress = SILENT,
) -> CheckReport:
    """Compare how a session and its reference read texts, and their numbers on random token ids and on texts.

    Args:
        session: what is checked.
        reference: what is right by definition.
        texts: texts, and second texts or None, to compare on too.
        tolerance: largest difference allowed; default: that of the coarser precision of both, for outputs as large as
            the reference's. What the folder says of that counts for nothing: it is what is checked. The cosine and the
            classes that a precision other than fp32 is judged by as well stay as they are.
        progress: is told of the stages.
    """
    with progress.stage("comparing tokens"):
        differences = text_differences(session, reference.preprocessing, texts)
    return replace(_compare(session, reference, texts, tolerance, progress), differences=tuple(differences))


def _compare(
    session: Session, reference: Reference, texts: Texts | None, tolerance: float | None, progress: Progress
) -> CheckReport:
    """Compare numbers, as `check_session` does."""
    kinds = {"random tokens": _Inputs(lambda: random_batches(session), len(SHAPES), sum(batch for batch, _ in SHAPES))}
    if texts is not None:
        count = len(texts[0])
        kinds["texts"] = _Inputs(lambda: text_batches(session, *texts), math.ceil(count / TEXT_BATCH), count)
    comparing = progress.stage(f"comparing with {reference.kind}", sum(kind.batches for kind in kinds.values()))
    with cuts_told_once(), comparing as advance:
        measured = {name: measure_difference(session, reference, kind.make(), advance) for name, kind in kinds.items()}
        judge = coarser_precision(session.metadata.arithmetic, reference.precision)
        parts, allowed = _judge(session, reference, kinds, measured, judge, tolerance)
    variant = session.metadata.variant_name if len(session.metadata.folder.variants) > 1 else None
    judgement = Judgement(reference.kind, session.task, judge.name, allowed, judge.cosine, variant)
    return CheckReport((), parts, judgement)


def _judge(
    session: Session,
    reference: Reference,
    kinds: Mapping[str, _Inputs],
    measured: Mapping[str, Measured],
    judge: Precision,
    tolerance: float | None,
) -> tuple[dict[str, CheckedPart], float]:
    """Return the verdict on every part, and the largest difference that was allowed at last."""
    parts: dict[str, CheckedPart] = {}
    allowed, largest = tolerance or 0.0, 0.0
    classifies = TASKS[session.task].names_classes
    for name, found in measured.items():
        largest = max(largest, found.scale)
        if tolerance is None:
            allowed = allowed_difference(judge.difference, largest)
        passed = judge.failure(found.parity, allowed, classifies=classifies) is None
        # For outputs of magnitude 1: every layer's allowance is scaled with what that layer returns.
        relative = judge.difference if tolerance is None else relative_tolerance(allowed, found.scale)
        layer = None if passed else reference.explain(found.worst, relative)
        parts[name] = CheckedPart(passed, kinds[name].batches, kinds[name].texts, found.parity, layer)
    return parts, allowed
