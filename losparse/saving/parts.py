"""Where the bytes of a model are: embeddings, layers, heads, norms, and what else its files hold. Loads no torch.

Which part a tensor belongs to is said by its name, in a checkpoint and in an exported graph alike: the graph's weights
are called after the modules that they come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.weights import stored_weights

from .folder import Checkpoint

PARTS = ("embeddings", "layers", "heads", "norms", "other")

# In bytes of a number, by the names of safetensors.
_BYTES = {"64": 8, "32": 4, "16": 2, "8": 1}

_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.spm",
    "spiece.model",
)
_NORM = re.compile(r"(?i)norm|^ln(?:_|\d|$)|^rms")
_TABLE = re.compile(r"(?i)^(?!rotary).*emb|^(?:wte|wpe|shared)$")


@dataclass(frozen=True)
class PartBytes:
    """Bytes of the files of a model, by part.

    Attributes:
        embeddings: tables of words, positions and token types, with their scales, and what stands beside them.
        layers: weights in numbered blocks, but for their norms.
        heads: other weights that have a module: pooling, classifiers, projections behind the blocks.
        norms: of the blocks, and before and behind them.
        other: constants of no module, names, and the graph itself.
    """

    embeddings: int = 0
    layers: int = 0
    heads: int = 0
    norms: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Bytes of the files."""
        return self.embeddings + self.layers + self.heads + self.norms + self.other

    @property
    def line(self) -> str:
        """What a report prints: bytes, and the share of embeddings in them."""
        share = self.embeddings / self.total if self.total else 0.0
        return f"bytes: {self.total:,}, of which embeddings {self.embeddings:,} ({share:.1%})"

    def to_dict(self) -> dict[str, int]:
        """Return plain data for JSON."""
        return asdict(self)


def part_of(name: str) -> str:
    """Tell the part that a tensor belongs to by its name; one of `PARTS`.

    Args:
        name: qualified, as in "encoder.layer.0.output.dense.weight", or a path, as graphs call constants of their own:
            "/encoder/layer.0/output/dense/Gemm_input_2".
    """
    modules = name.removeprefix("/").replace("/", ".").split(".")[:-1]
    if not modules:
        return "other"
    if any(_NORM.search(module) for module in modules):
        return "norms"
    # What an export makes of the attentions of several blocks is called after none of them.
    if any(module.isdigit() for module in modules) or modules == ["attention"]:
        return "layers"
    return "embeddings" if any(_TABLE.search(module) for module in modules) else "heads"


def sum_parts(sizes: Iterable[tuple[str, int]], files: int) -> PartBytes:
    """Add up tensors by part.

    Args:
        sizes: name and bytes of every tensor.
        files: bytes of the files that hold them; what is in no tensor counts as "other".
    """
    found = dict.fromkeys(PARTS, 0)
    for name, size in sizes:
        found[part_of(name)] += size
    found["other"] += files - sum(found.values())
    return PartBytes(**found)


def checkpoint_parts(checkpoint: Checkpoint) -> PartBytes:
    """Return where the bytes of a checkpoint's weight files are."""
    return sum_parts(_tensor_sizes(checkpoint.shapes, checkpoint.types), checkpoint.file_bytes)


def onnx_parts(place: Path, folder: Folder, variant: str | None = None) -> PartBytes:
    """Return where the bytes of an exported folder's graphs are; weights that several variants share count once.

    Args:
        place: of the folder.
        folder: what its losparse.json says.
        variant: whose graphs; None for all variants together.

    Raises:
        FolderError: a graph's file is damaged.
    """
    names = tuple(folder.variants) if variant is None else (variant,)
    files = sorted({model.file for name in names for model in folder.variants[name].models.values()})
    weights = [(file, weight) for file in files for weight in stored_weights(place / file)]
    # What lies outside a graph's file is the same weight wherever it is named.
    stored = {(weight.file or file, weight.offset or weight.name): weight for file, weight in weights}
    sizes = [(weight.name, weight.bytes) for weight in stored.values()]
    return sum_parts(sizes, sum(folder.files[name].bytes for name in folder.model_files(*names)))


def tokenizer_bytes(folder: Path) -> int:
    """Return the size of the files of a folder's tokenizer."""
    return sum(file.stat().st_size for name in _TOKENIZER for file in folder.glob(name) if file.is_file())


def _tensor_sizes(shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, str]) -> Iterable[tuple[str, int]]:
    for name, shape in shapes.items():
        count = _number_bytes(types[name])
        for size in shape:
            count *= size
        yield name, count


def _number_bytes(kind: str) -> int:
    """Return the bytes of a number, by its type's name in safetensors: "BF16", "I64", "F8_E4M3", "BOOL"."""
    found = re.search(r"\d+", kind)
    return _BYTES.get(found[0], 1) if found else 1
