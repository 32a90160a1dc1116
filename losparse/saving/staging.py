"""Folders that are written whole or not at all: refused when they exist, made beside their place, and put there last.

A failure leaves nothing behind, and an old folder is only removed once the new one stands in its place.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from losparse_runtime.contract.files import METADATA_FILE

from ..errors import LosparseError

REPORT = "losparse_report.json"
"""What a compression writes into its folder about itself."""
DEMO_REPORT = "report.json"
"""What the demo writes into its folder. Others use that name too, so what is in it decides."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RUST_CODE = re.compile(r"\(os error (\d+)\)")
"""How an error of the system ends that Rust reports."""
_TORCH_WRITER = "inline_container.cc"
"""Where torch's writer of files finds that one took fewer bytes than it was given; it keeps no code of the system."""


@dataclass(frozen=True)
class Writer:
    """Who wrote a folder that may be replaced.

    Attributes:
        name: for messages.
        markers: files by which its folders are known.
        demo: whether the folder of the demo is one of them.
    """

    name: str
    markers: tuple[str, ...]
    demo: bool = False

    def wrote(self, folder: Path) -> bool:
        """Tell whether a folder is one of them."""
        return any((folder / name).is_file() for name in self.markers) or (self.demo and _is_of_demo(folder))


EXPORT = Writer("losparse export", (METADATA_FILE,))
"""An export, made again in minutes, may stand in the place of another one, not in that of a trained checkpoint."""
LOSPARSE = Writer("losparse", (*EXPORT.markers, REPORT), demo=True)


def _is_of_demo(folder: Path) -> bool:
    try:
        report = json.loads((folder / DEMO_REPORT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    versions = report.get("versions") if isinstance(report, dict) else None
    return isinstance(versions, dict) and "losparse" in versions


def check_out(out: Path, *, overwrite: bool, sources: tuple[Path, ...] = (), replaces: Writer = LOSPARSE) -> None:
    """Refuse an output folder that must not be written, before any work is done.

    Args:
        out: where the result will be.
        overwrite: whether an existing folder may be replaced; an empty one, or one that `replaces` wrote.
        sources: folders that are read; `out` must not be one of them, nor hold one, nor lie in one.
        replaces: whose folders.

    Raises:
        LosparseError: see above.
    """
    resolved = out.resolve()
    for source in (source.resolve() for source in sources if source.exists()):
        if resolved == source or resolved in source.parents:
            raise LosparseError(f"OUT must be another folder than its input, got '{out}' for both")
        if source in resolved.parents:
            raise LosparseError(f"OUT must not lie within its input '{source}', got '{out}'; choose another")
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise LosparseError(f"OUT '{out}' exists; choose another, or replace it with overwrite=True (--overwrite)")
    if out.is_symlink() or not out.is_dir():
        kind = "a link" if out.is_symlink() else "a file"
        raise LosparseError(f"OUT '{out}' is {kind}, and only a folder is replaced; choose another")
    if any(out.iterdir()) and not replaces.wrote(out):
        raise LosparseError(f"OUT '{out}' was not written by {replaces.name}, so it is not replaced; choose another")


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False, replaces: Writer = LOSPARSE) -> Iterator[Path]:
    """Give an empty folder to write in; it becomes `out` when the block ends, and vanishes when the block fails.

    Args:
        out: where the folder shall stand.
        overwrite: see `check_out`, as for the next.
        replaces: whose folders.

    Yields:
        The folder to write in, beside `out`.

    Raises:
        LosparseError: `out` is there and may not be replaced, its parent cannot be written, or its disk takes no more.
    """
    check_out(out, overwrite=overwrite, replaces=replaces)
    out = out.resolve()  # "." has no name to put others beside
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = _sibling(out, "tmp")
        work.mkdir()
    except OSError as error:
        raise LosparseError(f"{out.parent}: cannot be written ({error.strerror}); choose another OUT") from error
    try:
        with said_of_full_disks(out):
            yield work
        _share(work)
        check_out(out, overwrite=overwrite, replaces=replaces)  # again: the work took a while
        _put(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def said_of_full_disks(out: Path) -> Iterator[None]:
    """Say that a disk takes no more where a writer raises a type of its own for it, as safetensors and tokenizers do.

    Args:
        out: what is written.

    Raises:
        LosparseError: the disk is full, or the user may not write so much.
    """
    try:
        yield
    except Exception as error:  # the writers are of Rust, and have no common base below Exception
        code = _RUST_CODE.search(str(error))
        cut_off = isinstance(error, RuntimeError) and _TORCH_WRITER in str(error)
        if not cut_off and (code is None or int(code[1]) not in _FULL):
            raise
        said = "torch's file came out too short" if cut_off else " ".join(str(error).split())
        raise LosparseError(f"'{out}' cannot be written: {said}; make room on that disk, or choose another") from error


def _put(work: Path, out: Path) -> None:
    """Put `work` at `out`; what was there stays until the new folder is in its place."""
    if not out.exists():
        work.rename(out)
        return
    old = _sibling(out, "old")
    out.rename(old)
    try:
        work.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(out: Path, ending: str) -> Path:
    """Return a hidden name beside `out` that nothing else has: a rename within one folder is atomic."""
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.{ending}")


def _share(folder: Path) -> None:
    """Give a folder and its files the permissions of newly made ones; some writers leave theirs private."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():  # what a link points at is not ours
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
