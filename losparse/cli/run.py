"""`losparse run ONNX_DIR TEXT ...`: what the model says to some texts. Loads no torch."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from losparse_runtime.contract.variant import DEFAULT_PROVIDER
from losparse_runtime.engine.options import parse_provider

from ..data.tables import split_lines
from ..errors import LosparseError
from .generating import GENERATION_FLAGS, add_generation_options, generate_texts
from .output import print_table
from .parser import CommandParser, OneMore, positive_int
from .progress import StderrProgress

if TYPE_CHECKING:
    from losparse_runtime import Session
    from losparse_runtime.tasks.base import Helper

logger = logging.getLogger(__name__)

_CPU = (DEFAULT_PROVIDER,)
_BATCH_SIZE = 32
_GENERATE = "generate"
"""The helper of language models, whose texts are printed as they are written."""
_BATCHES = 16
"""Batches between two moves of the progress bar; texts are sorted by length within them."""

_FLAGS = {
    "pairs": "--pair",
    "question": "--question",
    "query": "--query",
    "prompt": "--prompt",
    "prompt_name": "--prompt-name",
    **GENERATION_FLAGS,
}
"""What a helper may take beside texts, by the name that helpers have for it."""


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that opens a session."""
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="threads of one run (default: all CPUs granted)"
    )
    add_provider_option(parser)


def add_verify_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that open a folder which may come from elsewhere."""
    parser.add_argument(
        "--verify", action="store_true", help="compare the SHA-256 of every file with losparse.json before it is opened"
    )
    parser.add_argument(
        "--verify-key", type=Path, metavar="PUBLIC.pem", help="the same, and losparse.json must be signed by this key"
    )


def add_provider_option(parser: argparse.ArgumentParser) -> None:
    """Add `--provider`, which all commands that open a session read alike."""
    parser.add_argument(
        "--provider",
        dest="providers",
        action=OneMore,
        type=parse_provider,
        default=_CPU,
        metavar="NAME[:OPTION=VALUE,...]",
        help="onnxruntime execution provider, with options of it, as in CUDAExecutionProvider:device_id=1; several, "
        f"most wanted first, by several --provider (default {_CPU[0]})",
    )


def add_variant_option(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--variant` to a command that opens one form of a folder.

    Args:
        parser: of the command.
        default: what it opens where none is named, as its help says it.
    """
    parser.add_argument(
        "--variant", metavar="NAME", help=f"form of a folder that holds several, as in int8 (default: {default})"
    )


def warn_of_provider(folder: Path, options: argparse.Namespace, variant: str | None = None) -> None:
    """Say once that a folder was planned for another provider than the default, where none was asked for.

    Args:
        folder: to be opened.
        options: of the command.
        variant: which form of it; None for the one that a session chooses.
    """
    from losparse_runtime.contract.files import read_folder
    from losparse_runtime.errors import FolderError

    if options.providers is not _CPU:
        return
    try:
        variants = read_folder(folder).variants
        planned = [each.provider for name, each in variants.items() if variant in (None, name)]
        wanted = DEFAULT_PROVIDER if DEFAULT_PROVIDER in planned or not planned else planned[0]
    except FolderError:  # whoever opens the folder next says what is wrong with it
        return
    if wanted != DEFAULT_PROVIDER:
        logger.warning(
            "'%s' was planned for %s and runs on %s; add --provider %s, or --provider %s to say that you want that",
            folder,
            wanted,
            DEFAULT_PROVIDER,
            wanted,
            DEFAULT_PROVIDER,
        )


def add_options(parser: CommandParser, stdin: TextIO | None = None) -> None:
    """Add the command's options.

    Args:
        parser: of the command.
        stdin: what texts are read from where none are given; default: that of the process.
    """
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
        "--pair",
        dest="pairs",
        action="append",
        metavar="TEXT",
        help="second text, for models of two texts; one --pair for each text",
    )
    parser.add_argument("--query", metavar="TEXT", help="sort the texts by how well they go with this (cross-encoders)")
    parser.add_argument("--prompt", metavar="TEXT", help="put in front of each text (embeddings)")
    parser.add_argument("--prompt-name", metavar="NAME", help="the same, by the name the folder has for it")
    parser.add_argument("--question", metavar="TEXT", help="question that each text is to answer")
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help=f"texts in one run (default {_BATCH_SIZE}); not where every text is read by itself",
    )
    parser.add_argument(
        "--batch-invariant",
        action="store_true",
        help="what is said of a text does not depend on the others: one text in a run where it may (precision int8, "
        "padding on the left)",
    )
    add_generation_options(parser)
    add_variant_option(parser, "the one that is best here; --verbose says which and why")
    add_session_options(parser)
    add_verify_options(parser)
    parser.set_defaults(run=run, stdin=stdin)


def run(options: argparse.Namespace) -> int:
    """Run the texts and print what comes out."""
    from losparse_runtime import Session
    from losparse_runtime.contract.task import TASKS
    from losparse_runtime.text.cuts import cuts_told_once

    stray = next((text for text in options.texts if text.endswith("ExecutionProvider")), None)
    if stray is not None and options.providers is not _CPU:
        raise LosparseError(f"--provider takes one name, got '{stray}' behind it; write --provider {stray} too")
    texts = options.texts or _lines_of(options.stdin or sys.stdin)
    _check_unicode(texts)
    warn_of_provider(options.folder, options, options.variant)
    session = Session(
        options.folder,
        options.providers,
        threads=options.threads,
        batch_invariant=options.batch_invariant,
        variant=options.variant,
        verify=options.verify_key or options.verify,
    )
    helper = _helper(session, options)
    if helper.name == _GENERATE:
        generate_texts(session, texts, options, options.batch_size)
        return 0
    if options.chat or options.system is not None:
        raise LosparseError(f"--chat and --system are for causal-lm; '{options.folder}' does {session.task}")
    _check_blanks(session, helper, texts)
    with cuts_told_once():
        results = _results(session, helper, texts, options)
    table = helper.table(TASKS[session.task], results, texts)
    if table.columns:
        print_table("", table.columns, table.rows, left=table.left)
    else:
        for row in table.rows:
            print(*row)
    return 0


def _helper(session: Session, options: argparse.Namespace) -> Helper[Any]:
    """Return what does the folder's task with the options that were given, none of which may be for another."""
    from losparse_runtime.contract.task import TASKS
    from losparse_runtime.tasks import HELPERS

    own = TASKS[session.task].helper
    if own is None:
        raise LosparseError(f"'{options.folder}' does {session.task}, which is not done on texts; use Session.run")
    helper = HELPERS[own]
    if helper.needs is not None and getattr(options, helper.needs) is None:
        if helper.without is None:
            raise LosparseError(
                f"a {session.task} folder needs {_FLAGS[helper.needs]}, and the texts that hold the {helper.name}"
            )
        helper = helper.without
    for name in _FLAGS:
        if getattr(options, name) is not None and name not in helper.options:
            raise _misplaced(name, session, helper)
    if options.batch_size is not None and helper.by_itself:
        raise LosparseError(f"--batch-size is not of {session.task}, which reads text by text; leave it out")
    return helper


def _misplaced(name: str, session: Session, helper: Helper[Any]) -> LosparseError:
    """Say which folders an option is for that this helper does not take."""
    from losparse_runtime.contract.task import TASKS
    from losparse_runtime.tasks import HELPERS

    if helper.needs is not None and helper.without is not None and name in helper.without.options:
        return LosparseError(f"{_FLAGS[name]} does not go with {_FLAGS[helper.needs]}; leave one of them out")
    takers = [
        key for key, each in HELPERS.items() if name in each.options or (each.without and name in each.without.options)
    ]
    tasks = ", ".join(task.name for task in TASKS.values() if task.helper in takers)
    return LosparseError(f"{_FLAGS[name]} is for {tasks}; '{session.folder}' does {session.task}")


def _lines_of(stdin: TextIO) -> list[str]:
    lines = [] if stdin.isatty() else split_lines(_content_of(stdin))
    if not lines:
        raise LosparseError("no text to run; give texts after the folder, or lines on stdin")
    return lines


def _content_of(stdin: TextIO) -> str:
    """Return what stdin holds, all of which must be of its encoding: read as it comes, a fault has no line number.

    A mark at the beginning (a shell on Windows writes one) says that it is utf-8, and is no part of the first text.
    """
    inner = getattr(stdin, "buffer", None)
    if inner is None:  # a program's own stand-in, which holds text
        return stdin.read()
    content: bytes = inner.read()
    encoding = "utf-8" if content.startswith(codecs.BOM_UTF8) else stdin.encoding
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


def _check_blanks(session: Session, helper: Helper[Any], texts: list[str]) -> None:
    """Refuse blank texts where there is no answer to them: whoever gives five lines counts on five answers."""
    from losparse_runtime import InputError

    blank = next((number for number, text in enumerate(texts, start=1) if not text.strip()), None)
    if blank is None:
        return
    if helper.blank is not None:
        raise LosparseError(f"text {blank} of {len(texts)} is blank, {helper.blank}; take it out")
    try:
        session.encode(texts[blank - 1])
    except InputError:
        raise LosparseError(
            f"text {blank} of {len(texts)} is blank, and this model's tokenizer makes no tokens of it; take it out"
        ) from None


def _results(session: Session, helper: Helper[Any], texts: list[str], options: argparse.Namespace) -> list[Any]:
    """Do the task on all texts, under a progress bar."""
    asked = {name: getattr(options, name) for name in helper.options}
    pairs = asked.pop("pairs", None)
    if pairs is not None and len(pairs) != len(texts):
        raise LosparseError(
            f"--pair must be given once for each of the {len(texts)} texts, as in --pair A --pair B, got {len(pairs)}"
        )
    batch = options.batch_size or _BATCH_SIZE
    results: list[Any] = []
    for part in _parts(texts, 1 if helper.by_itself else _BATCHES * batch, options):
        second = {} if pairs is None else {"pairs": pairs[part]}
        with _counting_from(part.start):
            results += helper.run(session, texts[part], batch_size=batch, **asked, **second)
    return results


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


def _parts(texts: list[str], size: int, options: argparse.Namespace) -> Iterator[slice]:
    """Yield the texts as slices of a size, under a progress bar."""
    with StderrProgress(verbose=options.verbose).stage("running", len(texts)) as advance:
        for first in range(0, len(texts), size):
            part = slice(first, min(first + size, len(texts)))
            yield part
            advance(part.stop - part.start)
