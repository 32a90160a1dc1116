"""Golden outputs recorded from the model that a folder came from: CI then compares with them, and needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from losparse import __version__
from losparse.data.loading import load_texts
from losparse.errors import LosparseError
from losparse.saving.source import find_model
from losparse_runtime import Session
from losparse_runtime.checking.against_golden import count_operators, recording_versions
from losparse_runtime.checking.bounds import Bounds
from losparse_runtime.checking.golden import Case, Golden, write_golden
from losparse_runtime.checking.numbers import Reference, random_batches, text_batches
from losparse_runtime.checking.tokens import TEXTS, tokenizer_parts
from losparse_runtime.contract.files import read_folder
from losparse_runtime.contract.progress import SILENT, Progress
from losparse_runtime.engine.cpus import int8_overflows
from losparse_runtime.text.cuts import cuts_told_once

from .check import open_reference
from .precision.table import judge_of

MOST_TEXTS = 128
"""Texts of the user's that are recorded, the first ones: the file is to be small."""


def record_golden(
    reference: Path | str,
    folder: Path | str,
    out: Path | str,
    *,
    data: Path | str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Golden:
    """Record what a reference says of random tokens, and of texts, into a file for `check_golden` and `assert_parity`.

    Args:
        reference: the checkpoint that the folder came from, a folder or hub id, or another ONNX folder.
        folder: that `losparse export` wrote; of its variants the operators are recorded.
        out: file to write, replaced if it is there.
        data: file of texts, the first `MOST_TEXTS` of which are recorded too.
        text_column: of the texts in `data`; None for the usual names.
        pair_column: of their second texts; None for the usual names.
        threads: see `Session`.
        progress: is told of the stages.

    Raises:
        LosparseError: the reference or the texts cannot be read, or the file cannot be written.
        LosparseRuntimeError: the folder cannot be opened.
    """
    out = Path(out)
    if out.suffix != ".npz" or not out.absolute().parent.is_dir():
        raise LosparseError(f"a golden file must be an .npz file in an existing folder, got '{out}'")
    names = list(read_folder(folder).variants)
    session = Session(folder, variant=names[0], threads=threads)
    texts = None
    if data is not None:
        first, pairs = load_texts(data, task=session.task, text_column=text_column, pair_column=pair_column)
        texts = first[:MOST_TEXTS], None if pairs is None else pairs[:MOST_TEXTS]
    with progress.stage("opening the reference"):
        right = open_reference(session, find_model(reference), threads=threads)
    with progress.stage("recording"):
        golden = Golden(
            task=session.task,
            kind=right.kind,
            reference=Path(str(reference)).name,
            precision=right.precision,
            cases=tuple(_cases(session, right, texts)),
            bounds=_bounds(session, right),
            settings=right.preprocessing.settings,
            text_settings=right.preprocessing.text_settings,
            tokenizer=_tokenizer(right),
            rows=_rows(right, texts),
            operators={name: count_operators(each) for name, each in _openable(session, threads)},
            versions={"losparse": __version__, **recording_versions()},
        )
        write_golden(out, golden)
    return golden


def _cases(session: Session, right: Reference, texts: tuple[list[str], list[str] | None] | None) -> Iterator[Case]:
    for batch in random_batches(session):
        yield Case("random tokens", batch, right.run(batch))
    if texts is not None:
        with cuts_told_once():
            for batch in text_batches(session, *texts):
                yield Case("texts", batch, right.run(batch))


def _bounds(session: Session, right: Reference) -> dict[str, Bounds]:
    """Return the bounds of all variants, and of fp32, by which one is judged that comes later."""
    names = ["fp32", right.precision, *(each.arithmetic for each in session.metadata.folder.variants.values())]
    return {name: judge_of(name).bounds for name in names}


def _tokenizer(right: Reference) -> dict[str, object] | None:
    tokenizer = right.preprocessing.tokenizer
    return None if tokenizer is None else tokenizer_parts(tokenizer)


def _rows(
    right: Reference, texts: tuple[list[str], list[str] | None] | None
) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
    """Return the reference's tokens of texts that tokenizers differ about, and of those that are given."""
    if right.preprocessing.tokenizer is None:
        return ()
    said = [*TEXTS, *(() if texts is None else texts[0])]
    return tuple((text, *row) for text, row in zip(said, right.preprocessing.encode(said, None), strict=True))


def _openable(session: Session, threads: int | None) -> Iterator[tuple[str, Session]]:
    """Yield the variants that this CPU can run."""
    for name, variant in session.metadata.folder.variants.items():
        if name == session.metadata.variant_name:
            yield name, session
        elif not (variant.wide and int8_overflows()):
            yield name, Session(session.folder, variant=name, threads=threads)
