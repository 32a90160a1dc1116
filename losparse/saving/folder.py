"""Checkpoint folders as they lie on disk: configuration and tensor headers, read and checked without torch.

Only the headers of the safetensors files are read, so this is fast for any size of model, and it finds what is
missing or cut short before anything is loaded. Pickled weights (`.bin`) are never read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import METADATA_FILE

from ..errors import LosparseError
from ..layers.spec import PARTS, LayerSpec
from ..layers.table import TABLE_PARTS, TableSpec
from .headers import read_header
from .names import local_name
from .schema import check_config, parse_fused, parse_layers, parse_tables, read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_INDICES = ("I64",)
_INT8 = "I8"
_TEXT_FILES = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder.

    Attributes:
        folder: where it is.
        config: contents of config.json.
        shapes: tensor shapes by name.
        types: element types by name, as safetensors calls them.
        file_bytes: size of all weight files.
    """

    folder: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    file_bytes: int

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The `quantization_config` entry, if there is one."""
        entry = self.config.get("quantization_config")
        return dict(entry) if isinstance(entry, dict) else None

    @property
    def parameters(self) -> int:
        """Parameters that the weights hold: floating-point numbers, and embeddings in 8 bits; no scales of those."""
        kinds = ("F", "BF", _INT8)  # F32 and F8_E4M3, say; I64, U8 and BOOL are indices and masks
        counted = {name for name, kind in self.types.items() if kind.startswith(kinds)}
        scales = {f"{name.rpartition('.')[0]}.scale" for name, kind in self.types.items() if kind == _INT8}
        return sum(math.prod(self.shapes[name]) for name in counted - scales)

    @property
    def compressed(self) -> bool:
        """Whether losparse wrote it."""
        return (self.quantization or {}).get("quant_method") == "losparse"


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder's configuration and the headers of its weights.

    Raises:
        LosparseError: something is missing, malformed or cut short, or a text file links to another place.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise LosparseError(f"model folder '{folder}' {kind}; give a folder with config.json and {WEIGHTS}")
    if not (folder / "config.json").is_file():
        _refuse_exported(folder)
        raise LosparseError(f"model folder '{folder}' has no config.json; give a folder that save_pretrained wrote")
    refuse_links_out(folder)
    config = read_object(folder / "config.json")
    check_config(config, folder / "config.json")
    return with_headers(folder, config, weight_files(folder))


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


def with_headers(folder: Path, config: dict[str, Any], files: Sequence[Path]) -> Checkpoint:
    """Put a configuration together with the headers of its safetensors files.

    Raises:
        LosparseError: a file is damaged or cut short.
    """
    stored: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in files:
        stored |= read_header(file)
    shapes = {name: shape for name, (shape, _) in stored.items()}
    types = {name: kind for name, (_, kind) in stored.items()}
    return Checkpoint(folder, config, shapes, types, sum(file.stat().st_size for file in files))


def refuse_links_out(folder: Path) -> None:
    """Refuse text files that lie elsewhere: what is in them would be copied into what is written.

    The hub's cache links every file into its own store, and a folder may be all links to another one.

    Raises:
        LosparseError: a file is a link to a place outside the folder and those.
    """
    real = Path(os.path.realpath(folder))
    roots = [real, Path(os.path.realpath(folder / "config.json")).parent]
    if real.parent.name == "snapshots":
        roots.append(real.parent.parent / "blobs")
    for file in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        target = Path(os.path.realpath(file))  # unlike resolve() it bears links that go round
        if file.suffix in _TEXT_FILES and not any(target.is_relative_to(root) for root in roots):
            raise LosparseError(
                f"'{file}' is a link to '{target}', outside its folder, and would be copied; put the file itself "
                "there, or remove the link"
            )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold a folder's weights.

    Raises:
        LosparseError: there are none, or the index of shards is malformed, leaves the folder, or lists a missing one.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        listed = read_object(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
            raise LosparseError(f"'{folder / INDEX}' must hold 'weight_map', a table of tensors and their files")
        outside = next((name for name in listed.values() if Path(name).name != name or "\\" in name), None)
        if outside is not None:
            raise LosparseError(
                f"'{folder / INDEX}' must name files in its own folder, got {outside!r}; save the model again with "
                "save_pretrained"
            )
        files = [folder / name for name in sorted(set(listed.values()))]
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
    variants = sorted(path.name for path in folder.glob("model.*.safetensors"))
    if variants:
        raise LosparseError(
            f"model folder '{folder}' has {variants[0]} but no {WEIGHTS}; weights that save_pretrained wrote with "
            "variant= are not read, save the model again without it"
        )
    _refuse_exported(folder)
    raise LosparseError(f"model folder '{folder}' has no weights; it needs {WEIGHTS}")


def _refuse_exported(folder: Path) -> None:
    """Refuse an ONNX folder, which keeps the configuration of its model beside the graph.

    Raises:
        LosparseError: it is one.
    """
    if (folder / METADATA_FILE).is_file():
        raise LosparseError(
            f"model folder '{folder}' is an exported ONNX folder, which has no weights to start from; give the "
            "checkpoint that it was exported from"
        )


def stored_layers(checkpoint: Checkpoint, *, renamed: bool = False) -> dict[str, LayerSpec]:
    """Return the layers that a compressed folder's configuration lists, checked against the tensors it stores.

    Args:
        checkpoint: the folder.
        renamed: pass over layers of which nothing is stored under their own name: transformers stores some families
            under other names, and finds itself what is missing.

    Raises:
        LosparseError: an entry is malformed, or the weights lack a tensor, have one too many, or of another kind.
    """
    quantization = checkpoint.quantization or {}
    entries = parse_layers(quantization.get("layers"), parse_tables(quantization.get("embeddings")))
    parse_fused(quantization.get("fused"))
    if quantization.get("form") == "training":
        return entries  # what a layer stores while it is trained is the affair of its form
    kinds = {"kept": _INDICES, "pivots": _INDICES}
    for name, tensors in _tensors_of(checkpoint, entries, renamed=renamed).items():
        _check_tensors(checkpoint, name, PARTS, entries[name].shapes(), tensors, kinds)
    return entries


def stored_tables(checkpoint: Checkpoint, *, renamed: bool = False) -> dict[str, TableSpec]:
    """Return the compact embedding tables that a folder's configuration lists, checked as `stored_layers` does.

    Raises:
        LosparseError: see `stored_layers`.
    """
    entries = parse_tables((checkpoint.quantization or {}).get("embeddings"))
    for name, tensors in _tensors_of(checkpoint, entries, renamed=renamed).items():
        kinds = {} if entries[name].bits is None else {"rows": (_INT8,)}
        _check_tensors(checkpoint, name, TABLE_PARTS, entries[name].shapes(), tensors, kinds)
    return entries


def _tensors_of(checkpoint: Checkpoint, names: Iterable[str], *, renamed: bool) -> dict[str, dict[str, str]]:
    """Return what is stored of each module, by its name and by part; with `renamed` of those of which anything is."""
    owners: dict[str, dict[str, str]] = {}
    for tensor in checkpoint.shapes:
        module, _, part = tensor.rpartition(".")
        owners.setdefault(module, {})[part] = tensor
    found = {name: owners.get(stored_name(name, owners.keys()), {}) for name in names}
    return {name: tensors for name, tensors in found.items() if tensors or not renamed}


def stored_name(name: str, stored: AbstractSet[str]) -> str:
    """Return what a layer is called in the weights: a model that lost or got a head since has another prefix."""
    prefixes = sorted({each.partition(".")[0] for each in (name, *stored)})
    found = (local_name(name, prefix, stored) for prefix in prefixes)
    return next((each for each in found if each is not None), name)


def _check_tensors(
    checkpoint: Checkpoint,
    name: str,
    parts: Sequence[str],
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, str],
    kinds: Mapping[str, tuple[str, ...]],
) -> None:
    """Refuse a module whose tensors are not those that its entry says.

    Args:
        checkpoint: the folder.
        name: of the module.
        parts: that such a module may have.
        expected: shapes by part.
        tensors: what is stored, by part.
        kinds: element types of the parts that are not in floating point.
    """
    for part in (*parts, *(part for part in tensors if part not in parts)):
        shape, found = expected.get(part), tensors.get(part)
        stored = None if found is None else checkpoint.shapes[found]
        if stored != shape:
            raise LosparseError(
                f"'{checkpoint.folder}': config.json says '{name}.{part}' is {_shape(shape)}, the weights have "
                f"{_shape(stored)}; config.json and weights are from different models"
            )
        allowed = kinds.get(part, _FLOATS)
        if found is not None and checkpoint.types[found] not in allowed:
            raise LosparseError(
                f"'{checkpoint.folder}': '{name}.{part}' must be stored as {' or '.join(allowed)}, got "
                f"{checkpoint.types[found]}; save the model again with save_pretrained"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape)) or "a single number"
