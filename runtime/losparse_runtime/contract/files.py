"""An exported ONNX folder on disk: reading and writing what it says of itself, and whether its files are whole.

FOLDER/model.onnx      (+ model.onnx.data)   the graph and its weights; more such files for more graphs or variants
FOLDER/losparse.json                         what it holds, `Folder`
FOLDER/losparse.json.sig                     who vouches for that file, where somebody signed it
FOLDER/config.json                           the Hugging Face configuration
FOLDER/tokenizer.json tokenizer_config.json  may be absent; needed for texts, not for token ids
FOLDER/modules.json 1_Pooling/ ...           for sentence-transformers, of embedding folders; this package reads none
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import FolderError, InputError
from .config import CONFIG_FILE
from .fields import read_json
from .folder import Folder, parse_folder
from .inside import locate, open_inside
from .metadata import Metadata, select
from .records import METADATA_FILE as METADATA_FILE
from .records import SIGNATURE_FILE, FileRecord
from .variant import MODEL_FILE, PLAN_FILE

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "sentencepiece.bpe.model",
)
"""Files of a tokenizer: an export brings those of its source along."""

CHAT_FILE = "chat_template.jinja"
"""How a conversation becomes one text, where the tokenizer's configuration does not hold it."""

logger = logging.getLogger(__name__)

# What earlier writers put into a folder without listing it.
ONCE_UNLISTED = (CONFIG_FILE, PLAN_FILE, *TOKENIZER_FILES)
# What is written about a folder, with an ending for text or without one.
_ABOUT, _TEXT = ("readme", "license", "licence", "notice"), ("", ".md", ".txt", ".rst")


def read_folder(folder: Path | str) -> Folder:
    """Read and check `losparse.json`, and that every file it names is there with the size it names.

    Args:
        folder: an exported ONNX folder.

    Returns:
        What it holds.

    Raises:
        FolderError: the folder or a file is missing or cut short, or the metadata is damaged.
    """
    folder = Path(folder)
    check_kind(folder)
    contents = parse_folder(read_json(folder / METADATA_FILE))
    for name, record in contents.files.items():
        file, found = folder / name, locate(folder, name)
        if found is None:
            raise FolderError(
                f"{file}: missing, but {METADATA_FILE} names it; copy the whole folder, or export it again"
            )
        if found.bytes != record.bytes:
            raise FolderError(
                f"{file}: must have {record.bytes} bytes by {METADATA_FILE}, has {found.bytes}; "
                "copy it again, or export it again"
            )
    return contents


def read_metadata(folder: Path | str, variant: str | None = None, graph: str | None = None) -> Metadata:
    """Read a folder as `read_folder` does, and choose one graph in one variant.

    Args:
        folder: an exported ONNX folder.
        variant: name of a variant, where the folder holds several; None for the first.
        graph: name of a graph, where the model has several; None for the first.

    Raises:
        FolderError: see `read_folder`.
        InputError: the folder has no such variant or graph.
    """
    try:
        return select(read_folder(folder), variant, graph)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def write_metadata(folder: Path, contents: Folder) -> None:
    """Write `losparse.json`, which `read_folder` reads; see `rewrite_metadata`."""
    rewrite_metadata(folder, contents.to_json())


def rewrite_metadata(folder: Path, data: Mapping[str, Any]) -> None:
    """Write what `losparse.json` says, and warn where a signature is of what it said before.

    Args:
        folder: an exported folder.
        data: JSON values.
    """
    write_json(folder / METADATA_FILE, data)
    if (folder / SIGNATURE_FILE).is_file():
        logger.warning("%s: was signed as it was before; sign it again with `losparse sign`", folder)


def write_json(file: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and infinity are refused, since JSON has neither."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            json.dump(data, sink, indent=2, ensure_ascii=False, allow_nan=False)
            sink.write("\n")
        Path(temporary).chmod(0o644)  # mkstemp makes it private
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Describe what a folder holds, so that a file which changes, goes or comes later is noticed.

    Args:
        folder: a finished folder, but for its metadata.

    Returns:
        By their path inside the folder, of every file but the metadata, which holds this, and its signature.
    """
    found = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file())
    names = (name for name in found if name not in (METADATA_FILE, SIGNATURE_FILE))
    return {name: FileRecord((folder / name).stat().st_size, _digest(folder, name)) for name in names}


def _digest(folder: Path, name: str) -> str:
    with open_inside(folder, name) as stream:
        try:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise FolderError(f"{folder / name}: cannot be read ({error.strerror})") from error


def check_kind(folder: Path) -> None:
    """Say what is in the place where an exported folder was expected.

    Raises:
        FolderError: it is no exported folder.
    """
    if not folder.exists():
        raise FolderError(f"{folder}: no such folder; give the folder that `losparse export` wrote")
    if not folder.is_dir():
        raise FolderError(f"{folder}: is a file, must be a folder; give the folder that `losparse export` wrote")
    if (folder / METADATA_FILE).exists():
        return
    if (folder / MODEL_FILE).exists():
        raise FolderError(
            f"{folder}: has {MODEL_FILE} but no {METADATA_FILE}, so losparse did not write it; "
            "export its source with `losparse export MODEL OUT`"
        )
    if (folder / CONFIG_FILE).exists():
        raise FolderError(
            f"{folder}: is a model checkpoint, not an exported folder; export it with `losparse export {folder} OUT`"
        )
    raise FolderError(f"{folder}: has no {METADATA_FILE}; give the folder that `losparse export` wrote")


def verify_files(folder: Path | str) -> None:
    """Compare the SHA-256 of every file with the one in the metadata. Reads the files whole.

    Raises:
        FolderError: as `read_folder`, or the contents of a file are not what the exporter wrote.
    """
    folder = Path(folder)
    for name, record in read_folder(folder).files.items():
        changed = difference(folder, name, record)
        if changed is not None:
            raise FolderError(
                f"{folder / name}: {changed}: the file changed after the export; copy it again, or export it again"
            )


def changed_files(folder: Path | str) -> list[str]:
    """Compare what a folder holds with what its metadata says it does. Reads the files whole.

    Returns:
        A line for every file that is missing, has other contents, or is not listed; none for a folder as it was
        written. What a hub or git adds, and nobody reads to run a model, counts for nothing: hidden files and folders,
        a README, a licence.

    Raises:
        FolderError: the folder has no metadata that can be read, or a file cannot be.
    """
    folder = Path(folder)
    check_kind(folder)
    listed = parse_folder(read_json(folder / METADATA_FILE)).files
    found = [(name, difference(folder, name, record)) for name, record in listed.items()]
    lines = [f"{name}: {changed}" for name, changed in found if changed is not None]
    known = {METADATA_FILE, SIGNATURE_FILE, *listed, *(() if CONFIG_FILE in listed else ONCE_UNLISTED)}
    return [*lines, *(f"{name}: {METADATA_FILE} does not list it" for name in sorted(unlisted(folder, known)))]


def unlisted(folder: Path, known: Collection[str], inside: str = "") -> Iterator[str]:
    """Yield what a folder holds beside the files that are known, by path; a folder without any of them is one name.

    What is hidden, a README or a licence is left out: neither onnxruntime nor this package ever reads it.
    """
    for path in folder.iterdir():
        name = f"{inside}{path.name}"
        if path.is_dir() and any(each.startswith(f"{name}/") for each in known):
            if not path.is_symlink():  # what is behind a link has a place of its own, or is not of this folder
                yield from unlisted(path, known, f"{name}/")
        elif name not in known and not beside_the_model(path.name):
            yield name


def beside_the_model(name: str) -> bool:
    """Whether neither onnxruntime nor this package ever reads what has this name."""
    place = Path(name.lower())
    return name.startswith(".") or (place.stem in _ABOUT and place.suffix in _TEXT)


def difference(folder: Path, name: str, record: FileRecord) -> str | None:
    """Say in what a file differs from its record; None where it does not. Reads the file whole.

    Raises:
        FolderError: it cannot be read, or leads out of the folder.
    """
    found = locate(folder, name)
    if found is None:
        return f"missing, {METADATA_FILE} lists it"
    if found.bytes != record.bytes:  # whatever it holds; so a file of any size costs no more than one that is listed
        return f"has {found.bytes} bytes, {METADATA_FILE} says {record.bytes}"
    digest = _digest(folder, name)
    if digest != record.sha256:
        return f"SHA-256 is {digest[:16]}..., {METADATA_FILE} says {record.sha256[:16]}..."
    return None
