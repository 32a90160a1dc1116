"""Folders and files that come whole or not at all: made under a hidden name beside their place, and renamed last."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import FolderError


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder whose contents can be renamed into another; what is left of it when the block ends vanishes.

    It lies beside the other, not in it: of a repository Triton takes every folder for a model, also one that a killed
    run left. Only where `out` is a disk of its own, or nothing can be written beside it, it is inside.

    Args:
        out: folder that is made where there is none; it goes again when the block fails.

    Raises:
        FolderError: the system refuses to write there, or no more.
    """
    out = out.resolve()  # "." has no name to put others beside
    made = _missing(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        inside = out.is_mount() or not os.access(out.parent, os.W_OK)
        work = (out if inside else out.parent) / f".{out.name}.{secrets.token_hex(4)}.tmp"
        try:
            work.mkdir()
            yield work
            made = []
        finally:
            shutil.rmtree(work, ignore_errors=True)
            for folder in made:  # of a block that failed
                folder.rmdir()
    except OSError as error:
        raise FolderError(f"{out}: cannot be written ({error.strerror or error}); choose another OUT") from error


def put_folder(work: Path, place: Path, *, overwrite: bool = False) -> None:
    """Put a finished folder in its place.

    Args:
        work: the folder.
        place: where it shall stand.
        overwrite: whether a folder that stands there may go; it does once the new one stands.

    Raises:
        OSError: the place is taken, or the system refuses.
    """
    if not (overwrite and place.exists()):
        work.rename(place)  # refused where something stands there, as by another run of this
        return
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{place.name} is a file")
    old = work.with_name(f"{work.name}.old")
    place.rename(old)
    try:
        work.rename(place)
    except OSError:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replaced(folder: Path, texts: Mapping[str, str]) -> Iterator[None]:
    """Replace text files of a folder for good if the block ends well; otherwise they are again as they were.

    Args:
        folder: that holds them.
        texts: contents by name.
    """
    before = {name: file.read_bytes() if (file := folder / name).exists() else None for name in texts}
    try:
        for name, text in texts.items():
            _write(folder / name, text.encode())
        yield
    except BaseException:
        for name, content in before.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                _write(folder / name, content)
        raise


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _missing(folder: Path) -> list[Path]:
    """Return a folder and those above it that are not there, the innermost first."""
    found = []
    while not folder.exists():
        found.append(folder)
        folder = folder.parent
    return found
