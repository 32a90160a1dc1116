"""A folder verified: its files by their digests, nothing beside them, and the signature where a key is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..contract.fields import MOST_BYTES, parse_json
from ..contract.files import beside_the_model, check_kind, difference, unlisted
from ..contract.folder import Folder, parse_folder
from ..contract.inside import name_fault, read_inside
from ..contract.records import METADATA_FILE, SIGNATURE_FILE
from ..errors import FolderError, LosparseRuntimeError
from .keys import PublicKey, read_public
from .signature import check_signature, read_signature


@dataclass(frozen=True)
class TrustReport:
    """What was found of a folder.

    Attributes:
        folder: that was verified.
        problems: a line for each thing that is not as it should be; none for a folder that can be trusted.
        files: how many were compared.
        bytes: of these.
        contents: what the folder says of itself; None where that cannot be read.
        signature: name of the key that a signature is by: of one that was compared where `compared` is true, else only
            what it says of itself; None where there is none.
        compared: whether the signature was compared with a key, and is right.
        beside: names of what else is there, which nobody reads to run a model, and which is not vouched for.
    """

    folder: Path
    problems: tuple[str, ...]
    files: int = 0
    bytes: int = 0
    contents: Folder | None = None
    signature: str | None = None
    compared: bool = False
    beside: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_folder(
    folder: Path | str, key: Path | str | None = None, *, signature: Path | str | None = None
) -> TrustReport:
    """Compare a folder with what its `losparse.json` lists, and that file with its signature.

    Args:
        folder: an exported folder.
        key: PEM file of the public key that must have signed it, or of several of which one must have; None to compare
            digests alone.
        signature: file of the signature; `losparse.json.sig` of the folder by default.

    Raises:
        FolderError: it is no exported folder.
        InputError: the key cannot be read.
        DependencyError: a key is given, and cryptography is not installed.
    """
    folder = Path(folder)
    check_kind(folder)
    keys = None if key is None else read_public(key)
    place = folder / SIGNATURE_FILE if signature is None else Path(signature)
    try:
        content = read_inside(folder, METADATA_FILE, MOST_BYTES)
    except FolderError as error:
        return TrustReport(folder, (str(error),))
    by, wrong = _signed_by(place, content, keys)
    report = compare_files(folder, content)
    problems = report.problems if wrong is None else (wrong, *report.problems)
    return replace(report, problems=problems, signature=by, compared=keys is not None and wrong is None)


def compare_files(folder: Path, content: bytes) -> TrustReport:
    """Compare a folder with what its `losparse.json` lists, whoever signed it.

    Args:
        folder: an exported folder.
        content: of its `losparse.json`.
    """
    try:
        contents = parse_folder(parse_json(folder / METADATA_FILE, content))
    except FolderError as error:
        return TrustReport(folder, (str(error),))
    return TrustReport(
        folder,
        tuple(_differences(folder, contents)),
        len(contents.files),
        sum(record.bytes for record in contents.files.values()),
        contents,
        beside=tuple(sorted(path.name for path in folder.iterdir() if _nobody_reads(path.name, contents))),
    )


def _signed_by(file: Path, content: bytes, keys: tuple[PublicKey, ...] | None) -> tuple[str | None, str | None]:
    """Return the key that a signature is by, and what is wrong with it."""
    if not file.is_symlink() and not file.exists():
        missing = f"{file}: missing, so nobody vouches for the folder; `losparse sign` makes it"
        return None, None if keys is None else missing
    try:
        found = read_signature(file)
        return (found.key if keys is None else check_signature(file, found, content, keys)), None
    except LosparseRuntimeError as error:
        return None, str(error)


def _differences(folder: Path, contents: Folder) -> Iterator[str]:
    """Yield a line for every file that is not as it is listed, and for every one that is not listed."""
    for name, record in contents.files.items():
        try:
            changed = difference(folder, name, record)
        except FolderError as error:
            yield str(error)
            continue
        if changed is not None:
            yield f"{folder / name}: {changed}; copy it again, or export it again"
    known = {METADATA_FILE, SIGNATURE_FILE, *contents.files}
    try:
        found = sorted(unlisted(folder, known))
    except OSError as error:
        yield f"{folder}: cannot be listed ({error.strerror})"
        return
    for name in found:
        shown = name if name_fault(name) is None else repr(name)
        yield f"{folder}: holds {shown}, which {METADATA_FILE} does not list; remove it, or export the folder again"


def _nobody_reads(name: str, contents: Folder) -> bool:
    return beside_the_model(name) and not any(each.split("/")[0] == name for each in contents.files)
