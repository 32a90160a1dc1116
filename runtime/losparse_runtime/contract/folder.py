"""An exported ONNX folder on disk: its metadata, the model's own configuration, and whether its files are whole.

    FOLDER/model.onnx      (+ model.onnx.data)   the graph and its weights
    FOLDER/losparse.json                         the metadata, `Metadata`
    FOLDER/config.json                           the Hugging Face configuration
    FOLDER/tokenizer.json tokenizer_config.json  may be absent; needed for texts, not for token ids

The metadata is read strictly; of the configuration only the few fields the runtime uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FolderError
from .fields import Fields, read_json
from .metadata import MODEL_FILE, FileRecord, Metadata, parse_metadata

METADATA_FILE = "losparse.json"
CONFIG_FILE = "config.json"

# What earlier writers put into a folder without listing it.
_ONCE_UNLISTED = (
    CONFIG_FILE,
    "plan.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "sentencepiece.bpe.model",
)


# What is written about a folder, with an ending for text or without one.
_ABOUT, _TEXT = ("readme", "license", "licence", "notice"), ("", ".md", ".txt", ".rst")


@dataclass(frozen=True)
class ModelConfig:
    """What the runtime needs of `config.json`; None where the file or the field is not there.

    Attributes:
        vocab_size: rows of the token embedding: ids are below it.
        type_vocab_size: rows of the token-type embedding.
        pad_token_id: the id the model takes for padding.
        problem_type: what the logits of a text mean, in transformers' words; see `Task.problem`.
        activation: what a cross-encoder's output goes through, as in "torch.nn.modules.linear.Identity".
        end_token_id: the id that ends a text of an encoder-decoder, whose classification head reads its place (BART).
    """

    vocab_size: int | None = None
    type_vocab_size: int | None = None
    pad_token_id: int | None = None
    problem_type: str | None = None
    activation: str | None = None
    end_token_id: int | None = None


def read_metadata(folder: Path) -> Metadata:
    """Read and check `losparse.json`, and that every file it names is there with the size it names.

    Args:
        folder: an exported ONNX folder.

    Returns:
        The checked metadata.

    Raises:
        FolderError: the folder or a file is missing or cut short, or the metadata is damaged.
    """
    _check_kind(folder)
    metadata = parse_metadata(read_json(folder / METADATA_FILE))
    for name, record in metadata.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise FolderError(
                f"{file}: missing, but {METADATA_FILE} names it; copy the whole folder, or export it again"
            )
        if size != record.bytes:
            raise FolderError(
                f"{file}: must have {record.bytes} bytes by {METADATA_FILE}, has {size}; "
                "copy it again, or export it again"
            )
    return metadata


def _check_kind(folder: Path) -> None:
    """Say what is in the place where an exported folder was expected."""
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


def read_model_config(folder: Path) -> ModelConfig:
    """Read the fields of `config.json` that the runtime uses.

    Raises:
        FolderError: the file is damaged or a field is of the wrong type.
    """
    file = folder / CONFIG_FILE
    return parse_model_config(read_json(file)) if file.exists() else ModelConfig()


def parse_model_config(fields: Fields) -> ModelConfig:
    """Take the fields that the runtime uses out of a configuration.

    Raises:
        FolderError: a field is of the wrong type.
    """

    def count(name: str, minimum: int) -> int | None:
        return None if fields.data.get(name) is None else fields.integer(name, minimum)

    return ModelConfig(
        vocab_size=count("vocab_size", 1),
        # 0 (DeBERTa) means that there is no such embedding: nothing to check.
        type_vocab_size=count("type_vocab_size", 0) or None,
        pad_token_id=count("pad_token_id", 0),
        problem_type=_text(fields.data.get("problem_type")),
        activation=_activation(fields.data),
        end_token_id=_end_token(fields.data),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _activation(data: Mapping[str, Any]) -> str | None:
    settings = data.get("sentence_transformers")
    said = settings.get("activation_fn") if isinstance(settings, dict) else None
    return _text(said) or _text(data.get("sbert_ce_default_activation_function"))  # the second: before version 4


def _end_token(data: Mapping[str, Any]) -> int | None:
    end = data.get("eos_token_id")  # generation may have several, as a list; a head that reads a place has one
    ends = data.get("is_encoder_decoder") is True and isinstance(end, int) and not isinstance(end, bool)
    return end if ends else None


def verify_files(folder: Path | str) -> None:
    """Compare the SHA-256 of every file with the one in the metadata. Reads the files whole.

    Raises:
        FolderError: as `read_metadata`, or the contents of a file are not what the exporter wrote.
    """
    folder = Path(folder)
    for name, record in read_metadata(folder).files.items():
        changed = _changed(folder, name, record)
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
    _check_kind(folder)
    listed = parse_metadata(read_json(folder / METADATA_FILE)).files
    found = [(name, _changed(folder, name, record)) for name, record in listed.items()]
    lines = [f"{name}: {changed}" for name, changed in found if changed is not None]
    known = {METADATA_FILE, *listed, *(() if CONFIG_FILE in listed else _ONCE_UNLISTED)}
    extra = sorted(
        path.name for path in folder.iterdir() if path.name not in known and not _beside_the_model(path.name)
    )
    return [*lines, *(f"{name}: {METADATA_FILE} does not list it" for name in extra)]


def _beside_the_model(name: str) -> bool:
    """Whether neither onnxruntime nor this package ever reads what has this name."""
    place = Path(name.lower())
    return name.startswith(".") or (place.stem in _ABOUT and place.suffix in _TEXT)


def _changed(folder: Path, name: str, record: FileRecord) -> str | None:
    """Say in what a file differs from its record; None where it does not."""
    file = folder / name
    if not file.is_file():
        return f"missing, {METADATA_FILE} lists it"
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FolderError(f"{file}: cannot be read ({error.strerror})") from error
    size = file.stat().st_size
    if size != record.bytes:
        return f"has {size} bytes, {METADATA_FILE} says {record.bytes}"
    if digest != record.sha256:
        return f"SHA-256 is {digest[:16]}..., {METADATA_FILE} says {record.sha256[:16]}..."
    return None
