"""A folder verified for a session, and looked at once more when that is open: what was hashed is what was opened.

onnxruntime opens a model, and the weights beside it, by their names. So every file is marked before its digest is
compared: which file it is, how large, and when it was changed last by the clock of the system, which nobody who may
write the file can set. A file that was exchanged or written to in between has other marks, even if it was put back.

What is written to a file after the session is open is seen by nobody, and weights are mapped, not copied: a folder that
is served must be one that only those may write to who may decide what is served.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from ..contract.files import read_folder
from ..contract.records import METADATA_FILE
from ..errors import FolderError, InputError
from .verifying import verify_folder

Verify = bool | Path | str
"""False for sizes alone, True for every digest, or the PEM file of the key that must have signed the folder too."""


class Seal:
    """A folder that was verified.

    Args:
        folder: an exported folder.
        verify: True, or the file of a public key.

    Raises:
        FolderError: something in it is not as its `losparse.json` says, or is not signed by that key.
        InputError: the key cannot be read.
        DependencyError: a key is given, and cryptography is not installed.
    """

    def __init__(self, folder: Path, verify: Verify) -> None:
        if not isinstance(verify, bool | str | Path):
            raise InputError(
                f"verify must be True, False or the file of a public key, got a {type(verify).__name__}; leave it out"
            )
        self._folder = folder
        contents = read_folder(folder)
        inside = {parent.as_posix() for name in contents.files for parent in PurePosixPath(name).parents}
        self._names = (".", METADATA_FILE, *contents.files, *sorted(inside - {"."}))
        self._first = self._marks()
        report = verify_folder(folder, None if isinstance(verify, bool) else verify)
        if report.problems:
            more = len(report.problems) - 1
            raise FolderError(f"{report.problems[0]}{f' (and {more} more: `losparse verify` lists them)' * (more > 0)}")
        if report.contents != contents:
            raise FolderError(f"{folder}: was changed while it was verified; open it again")

    def confirm(self) -> None:
        """Look whether all files are still those that were verified.

        Raises:
            FolderError: one was written to, exchanged or removed.
        """
        if self._marks() != self._first:
            raise FolderError(f"{self._folder}: was changed while it was opened; open it again")

    def _marks(self) -> tuple[tuple[int, ...], ...]:
        """Of every file and folder: which it is, its size, and when it was changed; of a link and of what it means."""
        found: list[tuple[int, ...]] = []
        for name in self._names:
            for follow in (False, True):
                try:
                    status = os.stat(self._folder / name, follow_symlinks=follow)
                except OSError:
                    found.append(())
                    continue
                kept = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                found.append(kept)
        return tuple(found)
