"""A folder signed: its `losparse.json` is what is signed, after all that it lists was found to be as it says."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..contract.fields import MOST_BYTES
from ..contract.files import check_kind, write_json
from ..contract.inside import read_inside
from ..contract.records import METADATA_FILE, SIGNATURE_FILE
from ..errors import FolderError, InputError
from .keys import key_id, read_private
from .signature import Signature
from .verifying import TrustReport, compare_files


def sign_folder(folder: Path | str, key: Path | str, *, out: Path | str | None = None) -> tuple[Path, TrustReport]:
    """Sign an exported folder, in the place of an earlier signature.

    Args:
        folder: an exported folder; every file must be as it was written.
        key: PEM file of a private key, which must not be in the folder.
        out: where the signature goes; `losparse.json.sig` of the folder by default.

    Returns:
        Where it is, and what was compared before.

    Raises:
        FolderError: it is no exported folder, or one that was changed.
        InputError: the key cannot be read or lies in the folder, or the signature cannot be written.
        DependencyError: cryptography is not installed.
    """
    folder, key = Path(folder), Path(key)
    target = folder / SIGNATURE_FILE if out is None else Path(out)
    if folder.is_dir() and key.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{key}: a private key must not lie in the folder that is given away; move it elsewhere")
    secret = read_private(key)
    check_kind(folder)
    content = read_inside(folder, METADATA_FILE, MOST_BYTES)
    report = compare_files(folder, content)
    if not report.passed:
        raise FolderError(f"{report.problems[0]}: a folder is signed as it was written")
    made = Signature(key_id(secret.public_key()), hashlib.sha256(content).hexdigest(), secret.sign(content))
    try:
        write_json(target, made.to_json())
    except OSError as error:
        raise InputError(f"{target}: the signature cannot be written there ({error.strerror})") from error
    return target, report
