"""Checkpoint folders as they lie on disk: configuration and tensor shapes, read and checked without torch.

Only the headers of the safetensors files are read, so this is fast for any size of model, and it finds what is
missing or cut short before anything is loaded. Pickled weights (`.bin`) are never read.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import LosparseError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder.

    Attributes:
        folder: where it is.
        config: contents of config.json.
        shapes: tensor shapes by name.
        file_bytes: size of all weight files.
    """

    folder: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    file_bytes: int

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The `quantization_config` entry, if there is one."""
        entry = self.config.get("quantization_config")
        return dict(entry) if isinstance(entry, dict) else None

    @property
    def compressed(self) -> bool:
        """Whether losparse wrote it."""
        return (self.quantization or {}).get("quant_method") == "losparse"


def find_model(name: str) -> Path:
    """Return the folder of a model: a path, or a hub id, whose files are then fetched.

    Raises:
        LosparseError: there is no such folder, and no such model on the hub.
    """
    path = Path(name)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(name):
        raise LosparseError(f"model folder '{name}' does not exist; give a folder or a hub id as owner/name")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
    except Exception as error:  # the hub client raises many unrelated types: network, no such name, no rights
        reason = " ".join(str(error).split())[:200]
        raise LosparseError(f"no model folder '{name}', and it could not be fetched from the hub: {reason}") from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder's configuration and the headers of its weights.

    Raises:
        LosparseError: something is missing, malformed or cut short.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise LosparseError(f"model folder '{folder}' {kind}; give a folder with config.json and {WEIGHTS}")
    if not (folder / "config.json").is_file():
        raise LosparseError(f"model folder '{folder}' has no config.json; give a folder that save_pretrained wrote")
    config = read_json_object(folder / "config.json")
    files = _weight_files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= read_header(file)
    return Checkpoint(folder, config, shapes, sum(file.stat().st_size for file in files))


def refuse_compressed(checkpoint: Checkpoint) -> None:
    """Refuse a model that is not dense.

    Raises:
        LosparseError: the model was compressed or quantised before.
    """
    entry = checkpoint.quantization
    if checkpoint.compressed:
        raise LosparseError(
            f"model '{checkpoint.folder}' is already compressed by losparse; start from its dense model"
        )
    if entry is not None:
        method = entry.get("quant_method", "unknown")
        raise LosparseError(
            f"model '{checkpoint.folder}' is already quantised (method '{method}'); start from its dense model"
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        LosparseError: it is not valid JSON, or not an object.
    """
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LosparseError(f"'{path}' is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise LosparseError(f"'{path}' must hold a JSON object, got {type(data).__name__}")
    return data


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        listed = read_json_object(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise LosparseError(f"'{folder / INDEX}' must hold 'weight_map', a table of tensors and their files")
        files = [folder / Path(str(name)).name for name in sorted(set(listed.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise LosparseError(f"model folder '{folder}' lacks {missing[0]}, which its index lists; copy it again")
        return files
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise LosparseError(
            f"model folder '{folder}' has {pickles[0]} but no {WEIGHTS}; pickled weights are not read, save the model "
            "again with save_pretrained"
        )
    raise LosparseError(f"model folder '{folder}' has no weights; it needs {WEIGHTS}")


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes in a safetensors file, and check that all the bytes it announces are there.

    Raises:
        LosparseError: the file is damaged or cut short.

    References:
        The safetensors format: 8 bytes little-endian header length, JSON header, data.
    """
    with path.open("rb") as source:
        header, start = _header(path, source)
    size = path.stat().st_size
    shapes = {}
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(int(count) for count in entry["shape"])
            first, last = (int(place) for place in entry["data_offsets"])
            expected = math.prod(shape) * _BYTES.get(entry["dtype"], 1)
        except (TypeError, KeyError, ValueError) as error:
            raise _damaged(path, f"the entry of '{name}' is malformed") from error
        if last - first != expected and entry["dtype"] in _BYTES:
            raise _damaged(path, f"'{name}' needs {expected} bytes, its entry has {last - first}")
        shapes[name] = shape
        end = max(end, last)
    if start + end != size:
        raise _damaged(path, f"it should have {start + end} bytes, it has {size}")
    return shapes


def _header(path: Path, source: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the header and where the data begins."""
    prefix = source.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _HEADER_LIMIT + 1
    content = source.read(length) if length <= _HEADER_LIMIT else b""
    if length > _HEADER_LIMIT or len(content) < length:
        raise _damaged(path, "its header is cut short")
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table")
    return header, 8 + length


def _damaged(path: Path, what: str) -> LosparseError:
    return LosparseError(f"'{path}' is damaged or cut short: {what}; copy it again")
