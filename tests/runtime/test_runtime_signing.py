"""Folders signed and verified: whose they are, what was changed since, and what a session then refuses."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from losparse_runtime import FolderError, InputError, SentenceEncoder, Session
from losparse_runtime.contract.files import record_files
from losparse_runtime.trust.keys import PASSPHRASE_VARIABLE, new_key, read_private, read_public
from losparse_runtime.trust.seal import Seal
from losparse_runtime.trust.signing import sign_folder
from losparse_runtime.trust.verifying import verify_folder

MakeFolder = Callable[..., Any]
NAME = "losparse.json.sig"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return new_key(tmp_path / "release.pem")


@pytest.fixture
def listed(make_folder: MakeFolder) -> Path:
    """A folder whose metadata lists every file, as the exporter writes it."""
    return relisted(make_folder().path)


def relisted(folder: Path) -> Path:
    data = json.loads((folder / "losparse.json").read_text())
    data["files"] = {name: vars(record) for name, record in record_files(folder).items()}
    (folder / "losparse.json").write_text(json.dumps(data))
    return folder


def problem(folder: Path, key: Path | None = None) -> str:
    """The one thing that is wrong with a folder."""
    (found,) = verify_folder(folder, key).problems
    assert "\n" not in found
    return found


def test_a_signed_folder_is_verified_and_opens(listed: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert not verify_folder(listed, public).passed
    file, before = sign_folder(listed, private)
    assert file == listed / NAME and before.files == 4
    found = verify_folder(listed, public)
    assert found.passed and found.compared and found.signature == read_public(public)[0].id
    assert verify_folder(listed).passed and not verify_folder(listed).compared
    session = Session(listed, threads=1, verify=public)
    assert session.classify(["a b"]) == Session(listed, threads=1).classify(["a b"])
    again = pickle.loads(pickle.dumps(session))  # opened anew, and verified anew
    assert again.options.verify == str(public)


def test_what_is_signed_are_the_bytes_of_the_description(listed: Path, keys: tuple[Path, Path]) -> None:
    """So other tools can compare it: `openssl pkeyutl -verify -pubin -inkey KEY -rawin -in losparse.json ...`."""
    sign_folder(listed, keys[0])
    raw = base64.b64decode(json.loads((listed / NAME).read_text())["signature"])
    key = load_pem_public_key(keys[1].read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(raw, (listed / "losparse.json").read_bytes())


def test_another_key_a_changed_description_and_a_forged_signature(listed: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    sign_folder(listed, private)
    other, other_public = new_key(private.with_name("other.pem"))
    assert "signed by another key (sha256:" in problem(listed, other_public)
    text = (listed / "losparse.json").read_text()
    (listed / "losparse.json").write_text(text + " ")
    assert "is of an earlier losparse.json than the one beside it" in problem(listed, public)
    assert "`losparse bench --record`" in problem(listed, public)
    (listed / "losparse.json").write_text(text)
    forged = json.loads((listed / NAME).read_text())
    sign_folder(listed, other)
    forged["signature"] = json.loads((listed / NAME).read_text())["signature"]
    (listed / NAME).write_text(json.dumps(forged))
    assert "was not made by the key that it names" in problem(listed, public)
    with pytest.raises(FolderError, match="was not made by the key"):
        Session(listed, verify=public)
    (listed / NAME).unlink()
    with pytest.raises(FolderError, match="missing, so nobody vouches for the folder"):
        Session(listed, verify=public)


def test_a_file_of_several_keys_takes_any_of_them(listed: Path, keys: tuple[Path, Path]) -> None:
    _, other_public = new_key(keys[0].with_name("next.pem"))
    both = keys[0].with_name("both.pem")
    both.write_bytes(other_public.read_bytes() + keys[1].read_bytes())
    sign_folder(listed, keys[0])
    assert verify_folder(listed, both).passed


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": 2, "algorithm": "ed25519"}', "[" * 4000, " " * 5000]
)
def test_a_damaged_signature(listed: Path, keys: tuple[Path, Path], content: str) -> None:
    (listed / NAME).write_text(content)
    assert problem(listed, keys[1]).startswith(str(listed / NAME))
    assert not verify_folder(listed).passed
    sign_folder(listed, keys[0])  # takes its place
    assert verify_folder(listed, keys[1]).passed


def test_what_was_changed_is_neither_signed_nor_opened(listed: Path, keys: tuple[Path, Path]) -> None:
    sign_folder(listed, keys[0])
    config = listed / "config.json"
    config.write_text(config.read_text().replace("12", "13"))
    assert "config.json: SHA-256 is" in problem(listed, keys[1])
    Session(listed)  # the size is the same
    for verify in (True, keys[1]):
        with pytest.raises(FolderError, match=r"config\.json: SHA-256 is"):
            Session(listed, verify=verify)
    with pytest.raises(FolderError, match="a folder is signed as it was written"):
        sign_folder(listed, keys[0])


def test_what_is_not_listed_is_refused(listed: Path) -> None:
    (listed / "README.md").write_text("a card")
    assert verify_folder(listed).beside == ("README.md",)
    (listed / "vocab.txt").write_text("a")
    (listed / "with\nline").write_text("")
    unlisted = verify_folder(listed).problems
    assert "holds vocab.txt, which losparse.json does not list" in unlisted[0]
    assert r"'with\nline'" in unlisted[1]
    with pytest.raises(FolderError, match=r"vocab\.txt, .* \(and 1 more: `losparse verify` lists them\)"):
        Session(listed, verify=True)


def test_a_folder_that_lists_its_model_alone_cannot_be_vouched_for(make_folder: MakeFolder) -> None:
    folder = make_folder().path  # as earlier writers did
    assert "holds config.json, which losparse.json does not list" in verify_folder(folder).problems[0]


def test_keys_are_private_and_never_overwritten(keys: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600 and public.name == "release.pub.pem"
    with pytest.raises(InputError, match=r"release\.pem: is there already, and a key is never overwritten"):
        new_key(private)
    private.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        read_private(private)
    assert "others than its owner may use this private key" in caplog.text
    with pytest.raises(InputError, match=r"must hold a public key in PEM, got a private key"):
        read_public(private)
    with pytest.raises(InputError, match=r"holds no private key that can be read"):
        read_private(public)
    for bad in (private.parent / "none.pem", private.parent):
        with pytest.raises(InputError, match="no such file; give the PEM file of a key"):
            read_public(bad)
    with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
        new_key(private.parent / "no" / "key.pem")
    os.mkfifo(private.parent / "pipe")
    with pytest.raises(InputError, match="no such file"):  # and is not waited for
        read_private(private.parent / "pipe")


def test_a_key_with_a_passphrase(keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    locked = tmp_path / "locked.pem"
    secret = read_private(keys[0])
    locked.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
    locked.chmod(0o600)
    with pytest.raises(InputError, match="has a passphrase; set LOSPARSE_KEY_PASSPHRASE to it"):
        read_private(locked, {})
    with pytest.raises(InputError, match="holds no private key that can be read"):
        read_private(locked, {PASSPHRASE_VARIABLE: "shut"})
    assert read_private(locked, {PASSPHRASE_VARIABLE: "open"}).public_key() == secret.public_key()
    read_private(keys[0], {PASSPHRASE_VARIABLE: "open"})  # that of another key does no harm


def test_keys_of_another_kind(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    other = generate_private_key(SECP256R1())
    (tmp_path / "ec.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ec.pub.pem").write_bytes(public)
    with pytest.raises(InputError, match="must hold a private key of ed25519, got "):
        read_private(tmp_path / "ec.pem")
    with pytest.raises(InputError, match="must hold public keys of ed25519, got "):
        read_public(tmp_path / "ec.pub.pem")


def test_a_private_key_in_the_folder_is_refused(listed: Path, keys: tuple[Path, Path]) -> None:
    keys[0].rename(listed / "release.pem")
    with pytest.raises(InputError, match="a private key must not lie in the folder that is given away"):
        sign_folder(listed, listed / "release.pem")


def test_a_signature_elsewhere(listed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign_folder(listed, keys[0], out=tmp_path / "made.sig")
    assert not (listed / NAME).exists()
    assert verify_folder(listed, keys[1], signature=tmp_path / "made.sig").passed
    with pytest.raises(InputError, match="the signature cannot be written there"):
        sign_folder(listed, keys[0], out=tmp_path / "no" / "made.sig")


def test_the_drop_ins_verify_too(make_folder: MakeFolder, keys: tuple[Path, Path]) -> None:
    folder = relisted(make_folder("feature-extraction").path)
    with pytest.raises(FolderError, match="nobody vouches for the folder"):
        SentenceEncoder(folder, verify=keys[1])
    sign_folder(folder, keys[0])
    assert SentenceEncoder(folder, verify=keys[1]).encode(["a"]).shape == (1, 4)


@pytest.mark.parametrize("change", ["rewritten", "exchanged and put back", "its folder exchanged"])
def test_what_is_exchanged_while_it_is_opened_is_noticed(listed: Path, change: str) -> None:
    seal = Seal(listed, True)
    seal.confirm()
    file = listed / "tokenizer.json"
    content, times = file.read_bytes(), file.stat()
    if change == "rewritten":  # with the times it had, and the same bytes again
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "exchanged and put back":
        file.rename(listed.parent / "aside")
        file.write_text("{}")
        (listed.parent / "aside").replace(file)
    else:
        listed.rename(listed.parent / "before")
        listed.mkdir()
        for each in (listed.parent / "before").iterdir():
            (listed / each.name).hardlink_to(each)
    with pytest.raises(FolderError, match="was changed while it was opened; open it again"):
        seal.confirm()


def test_verify_must_be_one_of_three(listed: Path) -> None:
    with pytest.raises(InputError, match="verify must be True, False or the file of a public key, got a int"):
        Session(listed, verify=1)  # type: ignore[arg-type]
