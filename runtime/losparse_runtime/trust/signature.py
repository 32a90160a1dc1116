"""The file of a signature: whose it is, of what, and the signature of the exact bytes of `losparse.json`.

    {"format": 1, "algorithm": "ed25519", "key": "sha256:...", "signed": "<SHA-256>", "signature": "<base64>"}

`losparse.json` lists every other file with its digest, so what vouches for it vouches for all of them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..contract.fields import Fields, parse_json
from ..contract.inside import read_inside
from ..contract.records import METADATA_FILE
from ..dependencies import import_cryptography
from ..errors import FolderError
from .keys import ALGORITHM, PublicKey

_FORMAT = 1
_MOST_BYTES = 4096
_SIGNATURE_BYTES = 64  # of ed25519
_AGAIN = "sign the folder again with `losparse sign`"


@dataclass(frozen=True)
class Signature:
    """A signature of a `losparse.json`.

    Attributes:
        key: name of the key that made it, as `keys.key_id` has it: only a hint, until the signature was compared.
        signed: SHA-256 of what was signed.
        signature: 64 bytes.
    """

    key: str
    signed: str
    signature: bytes

    def to_json(self) -> dict[str, object]:
        """Return the contents of the file."""
        encoded = base64.b64encode(self.signature).decode()
        return {
            "format": _FORMAT,
            "algorithm": ALGORITHM,
            "key": self.key,
            "signed": self.signed,
            "signature": encoded,
        }


def read_signature(file: Path) -> Signature:
    """Read the file of a signature.

    Raises:
        FolderError: it cannot be read, or is none.
    """
    return _parse(parse_json(file, read_inside(file.parent, file.name, _MOST_BYTES)))


def _parse(fields: Fields) -> Signature:
    if fields.integer("format", 1) != _FORMAT or fields.text("algorithm") != ALGORITHM:
        raise FolderError(
            f"{fields.file}: must have format {_FORMAT} and algorithm {ALGORITHM}, got {fields.data['format']} and "
            f"{fields.text('algorithm')}: a newer losparse signed it; pip install --upgrade losparse"
        )
    try:
        signature = base64.b64decode(fields.text("signature"), validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    if len(signature) != _SIGNATURE_BYTES:
        raise FolderError(f"{fields.file}: field 'signature' must be {_SIGNATURE_BYTES} bytes in base64; {_AGAIN}")
    return Signature(fields.text("key"), fields.digest("signed"), signature)


def check_signature(file: Path, found: Signature, content: bytes, keys: tuple[PublicKey, ...]) -> str:
    """Compare a signature with what it should be of.

    Args:
        file: of the signature, for messages.
        found: what it says.
        content: of `losparse.json`.
        keys: one of which must have made it.

    Returns:
        Name of that key.

    Raises:
        FolderError: another key made it, `losparse.json` is not what was signed, or the signature is a wrong one.
    """
    key = next((each for each in keys if each.id == found.key), None)
    if key is None:
        given = ", ".join(_short(each.id) for each in keys)
        raise FolderError(f"{file}: signed by another key ({_short(found.key)}) than the one given ({given})")
    if hashlib.sha256(content).hexdigest() != found.signed:
        raise FolderError(
            f"{file}: is of an earlier {METADATA_FILE} than the one beside it, which was changed since, as "
            f"`losparse bench --record` does; {_AGAIN} if that was you"
        )
    invalid = import_cryptography("exceptions").InvalidSignature
    try:
        key.key.verify(found.signature, content)
    except invalid:
        raise FolderError(f"{file}: was not made by the key that it names ({_short(key.id)}); do not use it") from None
    return key.id


def _short(key: str) -> str:
    return key[: len("sha256:") + 16]
