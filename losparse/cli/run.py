"""`losparse run ONNX_DIR TEXT ...`: what the model says to some texts. Loads no torch."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.tables import split_lines
from ..errors import LosparseError
from .output import print_table
from .parser import CommandParser, OneMore, positive_int
from .progress import StderrProgress

if TYPE_CHECKING:
    from losparse_runtime import Session


_CPU = ("CPUExecutionProvider",)
_BATCH_SIZE = 32
_BATCHES = 16
"""Batches between two moves of the progress bar; texts are sorted by length within them."""


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that opens a session."""
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="threads of one run (default: all CPUs granted)"
    )
    parser.add_argument(
        "--provider",
        dest="providers",
        action=OneMore,
        default=_CPU,
        metavar="NAME",
        help=f"onnxruntime execution provider; several, most wanted first, by several --provider (default {_CPU[0]})",
    )


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.rest = "texts"
    parser.add_argument("folder", type=Path, metavar="ONNX_DIR", help="what `losparse export` wrote")
    parser.add_argument(
        "texts",
        nargs="*",
        default=[],
        metavar="TEXT",
        help="texts; without any, the lines of stdin, a text each, blank ones too",
    )
    parser.add_argument(
        "--pair", action="append", metavar="TEXT", help="second text, for models of two texts; one --pair for each text"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="put in front of each text (embeddings)")
    parser.add_argument("--prompt-name", metavar="NAME", help="the same, by the name the folder has for it")
    parser.add_argument("--question", metavar="TEXT", help="question that each text is to answer (question-answering)")
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help=f"texts in one run (default {_BATCH_SIZE}); not of question-answering",
    )
    parser.add_argument(
        "--batch-invariant",
        action="store_true",
        help="what is said of a text does not depend on the others: one text in a run where it may (precision int8, "
        "padding on the left)",
    )
    add_session_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the texts and print what comes out."""
    from losparse_runtime import Session
    from losparse_runtime.text.cuts import cuts_told_once

    stray = next((text for text in options.texts if text.endswith("ExecutionProvider")), None)
    if stray is not None and options.providers is not _CPU:
        raise LosparseError(f"--provider takes one name, got '{stray}' behind it; write --provider {stray} too")
    texts = options.texts or _lines_of_stdin()
    _check_unicode(texts)
    session = Session(
        options.folder, options.providers, threads=options.threads, batch_invariant=options.batch_invariant
    )
    if options.question is not None and session.task != "question-answering":
        raise LosparseError(f"--question is for question-answering, '{options.folder}' does {session.task}")
    if options.pair is not None and session.task != "text-classification":
        raise LosparseError(f"--pair is for text-classification, '{options.folder}' does {session.task}")
    if session.task != "feature-extraction" and (options.prompt is not None or options.prompt_name is not None):
        raise LosparseError(f"--prompt and --prompt-name are for embeddings, '{options.folder}' does {session.task}")
    if options.batch_size is not None and session.task == "question-answering":
        raise LosparseError("--batch-size is not of question-answering, which reads text by text; leave it out")
    _check_blanks(session, texts)
    options.batch_size = options.batch_size or _BATCH_SIZE
    show = {"text-classification": _classify, "token-classification": _tag, "question-answering": _answer}
    with cuts_told_once():
        show.get(session.task, _embed)(session, texts, options)
    return 0


def _lines_of_stdin() -> list[str]:
    lines = [] if sys.stdin.isatty() else split_lines(_stdin())
    if not lines:
        raise LosparseError("no text to run; give texts after the folder, or lines on stdin")
    return lines


def _stdin() -> str:
    """Return what stdin holds, all of which must be of its encoding: read as it comes, a fault has no line number.

    A mark at the beginning (a shell on Windows writes one) says that it is utf-8, and is no part of the first text.
    """
    inner = getattr(sys.stdin, "buffer", None)
    if inner is None:  # a program's own stand-in, which holds text
        return sys.stdin.read()
    content: bytes = inner.read()
    encoding = "utf-8" if content.startswith(codecs.BOM_UTF8) else sys.stdin.encoding
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding).count("\n") + 1
        raise LosparseError(f"line {line} of stdin is not {encoding.upper()}; convert it first") from None


def _check_unicode(texts: list[str]) -> None:
    """Refuse texts of other bytes than UTF-8, which Python hands on as lone surrogates."""
    for number, text in enumerate(texts, start=1):
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise LosparseError(f"text {number} of {len(texts)} is not UTF-8; convert it first")


def _check_blanks(session: Session, texts: list[str]) -> None:
    """Refuse blank texts where there is no answer to them: whoever gives five lines counts on five answers."""
    from losparse_runtime import InputError

    blank = next((number for number, text in enumerate(texts, start=1) if not text.strip()), None)
    if blank is None:
        return
    if session.task == "question-answering":
        raise LosparseError(f"text {blank} of {len(texts)} is blank, so it holds no answer; take it out")
    try:
        session.encode(texts[blank - 1])
    except InputError:
        raise LosparseError(
            f"text {blank} of {len(texts)} is blank, and this model's tokenizer makes no tokens of it; take it out"
        ) from None


def _classify(session: Session, texts: list[str], options: argparse.Namespace) -> None:
    pairs = options.pair
    if pairs is not None and len(pairs) != len(texts):
        raise LosparseError(
            f"--pair must be given once for each of the {len(texts)} texts, as in --pair A --pair B, got {len(pairs)}"
        )
    rows = []
    for part in _parts(texts, options):
        second = None if pairs is None else pairs[part]
        with _counting_from(part.start):
            results = session.classify(texts[part], options.batch_size, pairs=second)
        rows += [[each.label, f"{each.score:.4f}", text] for each, text in zip(results, texts[part], strict=True)]
    print_table("", ["label", "score", "text"], rows, left=(0, 2))


def _tag(session: Session, texts: list[str], options: argparse.Namespace) -> None:
    found = []
    for part in _parts(texts, options):
        with _counting_from(part.start):
            found += session.tag(texts[part], options.batch_size)
    rows = [
        [tag.label, f"{tag.score:.4f}", tag.text, str(number)]
        for number, tags in enumerate(found, start=1)
        for tag in tags
    ]
    print_table("", ["label", "score", "word", "text"], rows, left=(0, 2))


def _answer(session: Session, texts: list[str], options: argparse.Namespace) -> None:
    if options.question is None:
        raise LosparseError("a question-answering folder needs --question, and the texts that hold the answer")
    answers = []
    for part in _parts(texts, options):
        for number, text in enumerate(texts[part], start=part.start):
            with _counting_from(number):
                answers.append(session.answer(options.question, text))
    print_table("", ["answer", "score", "start"], [[a.text, f"{a.score:.4f}", str(a.start)] for a in answers])


def _embed(session: Session, texts: list[str], options: argparse.Namespace) -> None:
    """Print one JSON list a text: a vector is for another program to read."""
    asked = {"prompt": options.prompt, "prompt_name": options.prompt_name}
    vectors = []
    for part in _parts(texts, options):
        with _counting_from(part.start):
            vectors += list(session.embed(texts[part], options.batch_size, **asked))
    for vector in vectors:
        print(json.dumps([float(f"{value:.8g}") for value in vector]))


@contextlib.contextmanager
def _counting_from(start: int) -> Iterator[None]:
    """Say where a call's texts begin, in errors that count the texts of one call."""
    from losparse_runtime import LosparseRuntimeError

    try:
        yield
    except LosparseRuntimeError as error:
        if start == 0:
            raise
        raise LosparseError(f"counted from text {start:,} (the first is 0): {error}") from error


def _parts(texts: list[str], options: argparse.Namespace) -> Iterator[slice]:
    """Yield the texts as slices of a few batches, under a progress bar."""
    size = _BATCHES * options.batch_size
    with StderrProgress(verbose=options.verbose).stage("running", len(texts)) as advance:
        for first in range(0, len(texts), size):
            part = slice(first, min(first + size, len(texts)))
            yield part
            advance(part.stop - part.start)
