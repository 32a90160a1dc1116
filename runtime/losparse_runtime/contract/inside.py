"""Files inside a folder that nobody vouches for: which names and links are allowed, and how one is opened.

A folder that came from elsewhere may hold anything. Nothing here follows a name or a link out of it, waits for a pipe,
or opens a device. A link inside a folder may lead to

    another file of the same folder                        as volumes of Kubernetes are made
    REPO/blobs/DIGEST, from a folder in REPO/snapshots/    as the cache of the Hugging Face hub is made

and nowhere else. The second form is exact: names of blobs are digests that the hub's client chose, so a folder cannot
say with it which file it wants to be read. The way to the folder itself is the caller's own, links and all.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from ..errors import FolderError, is_plain

MIB = 1024 * 1024
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # what git and the hub call a content by
_LONGEST = 240
"""Bytes of one part of a name; file systems take 255, and temporary names are longer than what they are for."""
_UNSAFE = frozenset('*?<>|"')  # onnxruntime takes "*/..." for places in memory; Windows has none of them in names
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows, in every folder
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "Is a directory"),
    (stat.S_ISFIFO, "Is a named pipe"),
    (stat.S_ISSOCK, "Is a socket"),
)
# What not every system has counts for nothing there.
_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
)


@dataclass(frozen=True)
class Located:
    """A regular file of a folder, as it was found.

    Attributes:
        path: without any link.
        status: of it.
    """

    path: str
    status: os.stat_result

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.status.st_size


def name_fault(name: str) -> str | None:
    """Say why something cannot be the name of a file inside a folder, on any system; None where it can.

    Args:
        name: with "/" between its parts.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name:
        return "it leads elsewhere"
    if not _UNSAFE.isdisjoint(name):
        return "it has characters with a meaning of their own"
    if ":" in name or any(_DEVICES.fullmatch(part) for part in parts):
        return "it means a drive, a stream or a device on Windows"
    if not is_plain(name):
        return "it has characters that cannot be seen"
    if any(part != part.strip() or part.endswith(".") for part in parts):
        return "Windows takes the space or dot at its end off"
    if any(len(part.encode()) > _LONGEST for part in parts):
        return f"a part of it has more than {_LONGEST} bytes"
    return None


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that are one file where case, or the form of accents, does not count; None for none."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None


def locate(folder: Path, name: str) -> Located | None:
    """Find a file of a folder without opening it; None where there is none.

    Args:
        folder: as the caller names it; links on the way to it are followed.
        name: of a file in it.

    Raises:
        FolderError: it is no regular file, or a link leads out of the folder, or the system does not say.
    """
    file = folder / name
    try:
        root, real = os.path.realpath(folder, strict=True), os.path.realpath(file, strict=True)
        if not _allowed(root, real):
            raise FolderError(
                f"{file}: is a link that leads out of the folder, which is not followed; put the file itself there"
            )
        status = os.stat(real, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL within the name
        return None
    except OSError as error:
        raise FolderError(f"{file}: cannot be read ({error.strerror})") from error
    _check_regular(file, status)
    return Located(real, status)


def open_inside(folder: Path, name: str) -> BufferedReader:
    """Open a file of a folder for reading, the one that was found and no other.

    Args:
        folder: see `locate`.
        name: see `locate`.

    Raises:
        FolderError: see `locate`; it is missing, or was replaced just now.
    """
    found = locate(folder, name)
    file = folder / name
    if found is None:
        raise FolderError(f"{file}: cannot be read (No such file or directory)")
    try:
        handle = os.open(found.path, _FLAGS)
    except OSError as error:
        raise FolderError(f"{file}: cannot be read ({error.strerror})") from error
    status = os.fstat(handle)
    if not os.path.samestat(status, found.status) or not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise FolderError(f"{file}: was replaced while it was opened; open the folder again")
    return os.fdopen(handle, "rb")


def read_inside(folder: Path, name: str, most: int) -> bytes:
    """Read a file of a folder whole.

    Args:
        folder: see `locate`.
        name: see `locate`.
        most: bytes that it may have.

    Raises:
        FolderError: see `open_inside`; it has more bytes, or the system cannot read it.
    """
    file = folder / name
    with open_inside(folder, name) as stream:
        try:
            content = stream.read(most + 1)
        except OSError as error:
            raise FolderError(f"{file}: cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise FolderError(f"{file}: has more than {most // MIB} MiB, which no export writes; export the folder again")
    return content


def _allowed(root: str, real: str) -> bool:
    """Tell whether what a name means, without links, belongs to the folder that has the name."""
    inside, file = Path(root), Path(real)
    if file.is_relative_to(inside):
        return True
    if file.parent.name != "blobs" or not _BLOB.fullmatch(file.name):
        return False
    return file.parent.with_name("snapshots") in inside.parents


def _check_regular(file: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "Is a device")
        raise FolderError(f"{file}: cannot be read ({kind}); it must be a file")
