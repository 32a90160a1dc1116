"""Files of a folder as its `losparse.json` lists them: names that stay inside, sizes, digests."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FolderError
from .fields import Fields
from .inside import name_fault, twins

METADATA_FILE = "losparse.json"
SIGNATURE_FILE = "losparse.json.sig"
"""What `losparse sign` writes beside it."""


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (64 hexadecimal digits) of one file."""

    bytes: int
    sha256: str


def parse_records(fields: Fields) -> dict[str, FileRecord]:
    """Read the list of a folder's files, by their path inside.

    Raises:
        FolderError: a name leads out of the folder, cannot be one everywhere, or is there twice; or a record is wrong.
    """
    records = {}
    for name in fields.data:
        own = name.casefold() in (METADATA_FILE, SIGNATURE_FILE)
        fault = "that one is not of what it lists" if own else name_fault(name)
        if fault is not None:
            raise FolderError(
                f"{fields.file}: field 'files' must name files inside the folder, got {name[:80]!r}: {fault}"
            )
        record = fields.object(name)
        records[name] = FileRecord(record.integer("bytes", 0), record.digest("sha256"))
    same = twins(records)
    if same is not None:
        raise FolderError(
            f"{fields.file}: field 'files' must name every file once, got {same[0][:80]!r} and {same[1][:80]!r}, which "
            "are one file where case, or the form of accents, does not count"
        )
    return records
