"""Keys of ed25519 in PEM files: a private one signs, public ones tell whose a signature is."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..dependencies import import_cryptography
from ..errors import InputError, one_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

logger = logging.getLogger(__name__)

ALGORITHM = "ed25519"
PASSPHRASE_VARIABLE = "LOSPARSE_KEY_PASSPHRASE"
"""Environment variable with the passphrase of a private key that has one."""
_MOST_BYTES = 64 * 1024
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAKE_ONE = "`losparse sign --new-key KEY.pem` makes a pair of keys"


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are compared with.

    Attributes:
        id: what a signature names it by, as `key_id` makes it.
        key: the key itself.
    """

    id: str
    key: Ed25519PublicKey


def new_key(file: Path | str) -> tuple[Path, Path]:
    """Make a pair of keys.

    Args:
        file: to be written, as in "release.pem": the private key, which its owner alone may read.

    Returns:
        The file, and that of the public key beside it, as in "release.pub.pem".

    Raises:
        InputError: one of them is there already, or cannot be written.
        DependencyError: cryptography is not installed.
    """
    private = Path(file)
    public = private.with_name(f"{private.stem}.pub.pem")
    for each in (private, public):
        if os.path.lexists(each):
            raise InputError(f"{each}: is there already, and a key is never overwritten; name another file")
    serialization = import_cryptography("hazmat.primitives.serialization")
    made = import_cryptography("hazmat.primitives.asymmetric.ed25519").Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret: bytes = made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shown: bytes = made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write(public, shown, 0o644)
    try:
        _write(private, secret, 0o600)
    except BaseException:
        public.unlink()
        raise
    return private, public


def read_private(file: Path | str, environ: Mapping[str, str] | None = None) -> Ed25519PrivateKey:
    """Read the key that signs.

    Args:
        file: PEM, as `new_key` or `openssl genpkey -algorithm ed25519` writes it.
        environ: may hold `PASSPHRASE_VARIABLE`; default: that of the process.

    Raises:
        InputError: there is no such file, it holds no such key, or the passphrase is missing or wrong.
        DependencyError: cryptography is not installed.
    """
    file = Path(file)
    content = _read(file)
    ed25519 = import_cryptography("hazmat.primitives.asymmetric.ed25519")
    load = import_cryptography("hazmat.primitives.serialization").load_pem_private_key
    passphrase = (os.environ if environ is None else environ).get(PASSPHRASE_VARIABLE)
    try:
        key = load(content, passphrase.encode() if passphrase and b"ENCRYPTED" in content else None)
    except TypeError:
        raise InputError(f"{file}: has a passphrase; set {PASSPHRASE_VARIABLE} to it") from None
    except Exception as error:  # ValueError mostly; algorithms that are switched off raise others
        raise InputError(f"{file}: holds no private key that can be read ({one_line(error)}); {_MAKE_ONE}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{file}: must hold a private key of {ALGORITHM}, got {type(key).__name__}; {_MAKE_ONE}")
    if os.name == "posix" and file.stat().st_mode & _OTHERS:
        logger.warning("%s: others than its owner may use this private key; chmod 600 it", file)
    secret: Ed25519PrivateKey = key
    return secret


def read_public(file: Path | str) -> tuple[PublicKey, ...]:
    """Read the keys that signatures are compared with; a file may hold several, as while one takes the other's place.

    Raises:
        InputError: there is no such file, or it holds no such key, or another kind of key beside them.
        DependencyError: cryptography is not installed.
    """
    file = Path(file)
    content = _read(file)
    ed25519 = import_cryptography("hazmat.primitives.asymmetric.ed25519")
    load = import_cryptography("hazmat.primitives.serialization").load_pem_public_key
    keys: list[PublicKey] = []
    for block in _PUBLIC.findall(content):
        try:
            key = load(block)
        except Exception as error:  # as in `read_private`
            raise InputError(f"{file}: holds a key that cannot be read ({one_line(error)})") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InputError(f"{file}: must hold public keys of {ALGORITHM}, got {type(key).__name__}; {_MAKE_ONE}")
        keys.append(PublicKey(key_id(key), key))
    if not keys:
        got = "a private key" if b"PRIVATE KEY" in content else "none"
        raise InputError(f"{file}: must hold a public key in PEM, got {got}; {_MAKE_ONE}")
    return tuple(keys)


def key_id(key: Ed25519PublicKey) -> str:
    """Return "sha256:" and the SHA-256 of a public key as DER, as `openssl pkey -pubin -outform DER` writes it."""
    serialization = import_cryptography("hazmat.primitives.serialization")
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def _read(file: Path) -> bytes:
    try:
        if not file.is_file():  # a pipe would be waited for
            raise InputError(f"{file}: no such file; give the PEM file of a key, or {_MAKE_ONE}")
        with file.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{file}: has more than {_MOST_BYTES} bytes, so it is no PEM file of a key")
    return content


def _write(file: Path, content: bytes, mode: int) -> None:
    """Write a file that must be new, with these rights from its first moment on."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as sink:
            sink.write(content)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from error
